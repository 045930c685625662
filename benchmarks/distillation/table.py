"""A sweep of students as plain text for a terminal, and as CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wheels.metrics import metric_name
from wheels.output.tables import Column, Table, band, digits, exact, number


def as_text(summary: Mapping[str, Any]) -> str:
    """Return the tables for a terminal: a line a kind of student, then the comparisons."""
    teacher = ", ".join(f"{metric_name(name)} {summary['teacher'][name]['mean']:.2f}" for name in summary["metrics"])
    cache = f"a cache of {summary['cached_logits']} tokens" if summary["cached_logits"] else "a live teacher"
    head = (
        f"{summary['task']}: {summary['sentences']} test rows; teacher of {summary['teacher']['parameters']:,} "
        f"parameters: {teacher}; students by {summary['objective']} from {cache}, {summary['training']}"
    )
    parts = [head, _students(summary)]
    if summary["contrasts"]:
        parts.append(_contrasts(summary))
    if summary["baselines"]:
        lines = [[name, number(value, 2)] for name, value in summary["baselines"].items()]
        parts.append(Table((), lines).text(f"without a model, {metric_name(summary['metrics'][0])}"))
    return "\n\n".join(parts) + "\n"


def _students(summary: Mapping[str, Any]) -> str:
    def name(line: Mapping[str, Any]) -> str:
        return f"{line['size']} {kind_name(line)}{'*' if line['chosen'] and line['label'] != 'hard' else ''}"

    shown = [Column("student", name), Column("parameters", show="{:,}".format)]
    shown += [Column("T", "temperature", lambda value: exact(value) or "-"), Column("seeds")]
    shown.append(Column("validation", show=digits(2)))
    for metric in summary["metrics"]:
        scores, minus = (_part("scores", metric), _part("minus_hard", metric))
        shown += [
            Column(metric_name(metric), scores, lambda score: number(score["mean"], 2)),
            Column("95%", scores, band),
        ]
        shown += [
            Column("- hard", minus, _difference),
            Column("95%", minus, lambda found: band(found) if found else ""),
        ]
    return Table.of(shown, summary["lines"]).text("students (*: the best of its label and size on validation rows)")


def _part(name: str, metric: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what finds the figures of a metric; None where there are none."""
    return lambda line: line[name].get(metric)


def _difference(found: Mapping[str, float] | None) -> str:
    return number(found["difference"], 2, "+") if found else ""


def _contrasts(summary: Mapping[str, Any]) -> str:
    shown = [Column("difference", lambda one: f"{one['of']} - {one['minus']}")]
    shown += [Column(metric_name(summary["metrics"][0]), "difference", digits(2, "+")), Column("95%", band)]
    shown.append(Column("p", show=digits(3)))
    return Table.of(shown, summary["contrasts"]).text("differences, paired bootstrap over sentences and seeds")


def kind_name(line: Mapping[str, Any]) -> str:
    """Return `hard`, `soft` or `both, w 0.5`."""
    return f"both, w {line['w']:g}" if line["label"] == "both" else str(line["label"])


def as_csv(summary: Mapping[str, Any]) -> str:
    """Return a line a kind of student, and one for the teacher."""
    ends = {"": ("mean", "difference"), "_low": ("low", "low"), "_high": ("high", "high")}
    scores = [(metric, end) for metric in summary["metrics"] for end in ends]
    head = ["student", "size", "parameters", "label", "w", "temperature", "seeds", "validation", "chosen"]
    head += [f"{metric}{end}" for metric, end in scores] + [f"{metric}_minus_hard{end}" for metric, end in scores]
    teacher = [summary["teacher"][metric][ends[end][0]] for metric, end in scores]
    rows = [["teacher", "", summary["teacher"]["parameters"], *[""] * 6, *teacher, *[""] * len(scores), ""]]
    for line in summary["lines"]:
        own = [line["scores"][metric][ends[end][0]] for metric, end in scores]
        minus = [line["minus_hard"][metric][ends[end][1]] if line["minus_hard"] else "" for metric, end in scores]
        plain = ("name", "size", "parameters", "label", "w", "temperature", "seeds", "validation")
        rows.append([*(line[name] for name in plain), int(line["chosen"]), *own, *minus, line["signature"]])
    return Table([*head, "signature"], rows).csv()
