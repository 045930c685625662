"""A sweep of students as plain text for a terminal, and as CSV."""

from __future__ import annotations

import csv
import io

from wheels.benchmarks.curve.plot import metric_name
from wheels.benchmarks.curve.table import number
from wheels.benchmarks.distillation.summary import KindScores, SweepSummary
from wheels.tables import align


def as_text(summary: SweepSummary) -> str:
    """Return the tables for a terminal: a line a kind of student, then the comparisons."""
    teacher = ", ".join(f"{metric_name(name)} {summary.teacher[name]['mean']:.2f}" for name in summary.metrics)
    cache = f"a cache of {summary.cached_logits} tokens" if summary.cached_logits else "a live teacher"
    head = (
        f"{summary.task}: {summary.sentences} test rows; teacher of {summary.teacher['parameters']:,} parameters: "
        f"{teacher}; students by {summary.objective} from {cache}, {summary.training}"
    )
    parts = [head, _students(summary)]
    if summary.contrasts:
        parts.append(_contrasts(summary))
    if summary.baselines:
        lines = [[name, number(value, 2)] for name, value in summary.baselines.items()]
        parts.append(f"without a model, {metric_name(summary.metrics[0])}:\n{align(lines)}")
    return "\n\n".join(parts) + "\n"


def _students(summary: SweepSummary) -> str:
    names = [metric_name(metric) for metric in summary.metrics]
    columns = [column for name in names for column in (name, "95%", "- hard", "95%")]
    rows = [["student", "parameters", "T", "seeds", "validation", *columns]]
    for line in summary.lines:
        mark = "*" if line.chosen and line.label != "hard" else ""
        row = [f"{line.size} {kind_name(line)}{mark}", f"{line.parameters:,}", temperature_text(line), str(line.seeds)]
        row.append("-" if line.validation is None else number(line.validation, 2))
        for metric in summary.metrics:
            score, minus = line.scores[metric], line.minus_hard.get(metric)
            row += [number(score["mean"], 2), f"[{number(score['low'], 2)}, {number(score['high'], 2)}]"]
            row += (
                [f"{minus['difference']:+z.2f}", f"[{number(minus['low'], 2)}, {number(minus['high'], 2)}]"]
                if minus
                else ["", ""]
            )
        rows.append(row)
    return f"students (*: the best of its label and size on validation rows):\n{align(rows)}"


def _contrasts(summary: SweepSummary) -> str:
    rows = [["difference", metric_name(summary.metrics[0]), "95%", "p"]]
    for one in summary.contrasts:
        band = f"[{number(one['low'], 2)}, {number(one['high'], 2)}]"
        rows.append([f"{one['of']} - {one['minus']}", f"{one['difference']:+z.2f}", band, number(one["p"], 3)])
    return f"differences, paired bootstrap over sentences and seeds:\n{align(rows)}"


def kind_name(line: KindScores) -> str:
    """Return `hard`, `soft` or `both, w 0.5`."""
    return f"both, w {line.w:g}" if line.label == "both" else line.label


def temperature_text(line: KindScores) -> str:
    """Return T, or a dash for labels that have none."""
    return "-" if line.temperature is None else f"{line.temperature:g}"


def as_csv(summary: SweepSummary) -> str:
    """Return a line a kind of student, and one for the teacher."""
    scores = [f"{metric}{end}" for metric in summary.metrics for end in ("", "_low", "_high")]
    minus = [f"{metric}_minus_hard{end}" for metric in summary.metrics for end in ("", "_low", "_high")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["student", "size", "parameters", "label", "w", "temperature", "seeds", "validation", "chosen"]
    writer.writerow([*head, *scores, *minus, "signature"])
    teacher = [summary.teacher[metric][end] for metric in summary.metrics for end in ("mean", "low", "high")]
    empty = [""] * len(minus)
    writer.writerow(["teacher", "", summary.teacher["parameters"], *[""] * 6, *map(_cell, teacher), *empty, ""])
    for line in summary.lines:
        own = [line.scores[metric][end] for metric in summary.metrics for end in ("mean", "low", "high")]
        against = [
            line.minus_hard[metric][end] if line.minus_hard else None
            for metric in summary.metrics
            for end in ("difference", "low", "high")
        ]
        writer.writerow(
            [line.name, line.size, line.parameters, line.label, _cell(line.w), _cell(line.temperature), line.seeds,
             _cell(line.validation), int(line.chosen), *map(_cell, own), *map(_cell, against), line.signature]
        )  # fmt: skip
    return buffer.getvalue()


def _cell(value: float | None) -> str:
    """Return a number as text; what does not exist is an empty cell."""
    return "" if value is None else f"{value:.6g}"
