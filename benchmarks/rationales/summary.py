"""The comparison of `wheels bench rationales`: accuracies with intervals, differences, overlap; table and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import wheels
from wheels.benchmarks.core.bootstrap import compare, interval, mean_over_seeds, resample_sentences
from wheels.benchmarks.core.results import write_result
from wheels.benchmarks.rationales.config import GridConfig
from wheels.benchmarks.rationales.overlap import overlap
from wheels.benchmarks.rationales.plot import draw
from wheels.data.tasks import load_task
from wheels.files import read_object
from wheels.metrics import SufficientStatistics, signature
from wheels.output.tables import Column, Table, digits, estimate

COLUMN = "attributed"
CONTROLS = ("none", "random", "untrained-teacher", "given")
"""What other students are compared with, in this order."""
NOT_COMPARABLE = (
    "Published (Ballout et al. 2024): {published:g}% with a teacher of 3B parameters and T5-small as the student, both "
    "pre-trained, on the official data. Ours are small, trained from scratch, on a small set: not comparable."
)

Key = tuple[str, int, int]
"""Method or control, k, seed."""


def summarise(
    grid: GridConfig, data: str, scores: Mapping[Key, Path], attributed: Mapping[str, Path], output: Path
) -> None:
    """Write `rationales.json`, `rationales.csv`, `rationales.png` and print the table."""
    task = load_task(data)
    teacher = read_object(output / "scores" / "teacher.json", "right", "parameters")
    right = {
        key: SufficientStatistics(grid.metric, 100.0 * column(read_object(file, "right")["right"]))
        for key, file in scores.items()
    }
    one = read_object(next(iter(scores.values())), "parameters")
    common = {
        "task": task.name,
        "n": len(teacher["right"]),
        "metric": grid.metric,
        "metric_signature": signature(grid.metric, [row.scored_against for row in task.test]),
        "teacher": {"parameters": teacher["parameters"], "accuracy": 100.0 * float(np.mean(teacher["right"]))},
        "student_parameters": one["parameters"],
        "seeds": grid.seeds,
        "resamples": grid.resamples,
        "published": grid.published,
        "data_digest": task.digest,
    }
    lines = students(grid, right, common)
    shares = {name: overlap(file, column=COLUMN, kind=grid.overlap, k=grid.k) for name, file in attributed.items()}
    report = {**common, "students": lines, "overlap": {"k": grid.k, "of": grid.overlap, "methods": shares}}
    if grid.captum:
        from wheels.benchmarks.rationales.speed import throughput

        report["throughput"] = throughput(data, output / "teacher")
    write_result(output, "rationales", report, as_csv(lines), draw)
    print(as_text(report))


def column(values: Sequence[int]) -> np.ndarray:
    """Return numbers as a column, [N, 1]."""
    return np.array(values, dtype=np.float64).reshape(-1, 1)


def students(
    grid: GridConfig, right: Mapping[Key, SufficientStatistics], common: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return a line for each kind of student: its accuracy with its interval, and its differences from the controls."""
    kinds: dict[tuple[str, int], list[SufficientStatistics]] = {}
    for (name, k, _), statistics in right.items():
        kinds.setdefault((name, k), []).append(statistics)
    weights_ZN = resample_sentences(common["n"], grid.resamples, 0)
    means = {kind: mean_over_seeds([one.resampled(weights_ZN) for one in seeds], 0) for kind, seeds in kinds.items()}
    lines = []
    for (name, k), seeds in kinds.items():
        line: dict[str, Any] = {"name": name, "k": k} | interval(means[name, k], "accuracy", "low", "high")
        line["by_seed"] = [one.corpus() for one in seeds]
        line["signatures"] = [signed(common, name, k, seed) for seed in range(len(seeds))]
        for control, at in against(kinds, name, k).items():
            line[f"minus_{control}"] = asdict(compare(means[name, k] - means[at]))
        lines.append(line)
    return lines


def against(kinds: Mapping[tuple[str, int], Any], name: str, k: int) -> dict[str, tuple[str, int]]:
    """Return what a kind of student is compared with: every other control, of its own length or of no length."""
    return {
        control: (control, length)
        for control, length in kinds
        if control in CONTROLS
        and control != name
        and (length in (0, k) or not k)
        and (name not in CONTROLS or not length)
    }


def signed(common: Mapping[str, Any], name: str, k: int, seed: int) -> str:
    """Return the string that a student's number is known by."""
    sizes = f"{common['student_parameters']}|{common['teacher']['parameters']}"
    return f"{common['task']}|{common['n']}|{sizes}|{name}|k:{k}|{seed}|{common['metric']}|wheels:{wheels.__version__}"


def as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return one line a student."""
    rows = [
        [
            line["name"],
            line["k"],
            seed,
            *(f"{value:.2f}" for value in (score, line["accuracy"], line["low"], line["high"])),
            signature,
        ]
        for line in lines
        for seed, (score, signature) in enumerate(zip(line["by_seed"], line["signatures"], strict=True))
    ]
    return Table(["name", "k", "seed", "accuracy", "mean", "low", "high", "signature"], rows).csv()


def as_text(report: Mapping[str, Any]) -> str:
    """Return the tables for a terminal."""
    shown = [Column("rationale", "name"), Column("k", show=lambda k: str(k or "-"))]
    shown += [
        Column("accuracy", show=digits(1)),
        Column("95% interval", lambda line: f"{line['low']:.1f} to {line['high']:.1f}"),
    ]
    compared = [control for control in CONTROLS if any(f"minus_{control}" in line for line in report["students"])]
    shown += [Column(f"minus {control}", partial(_against, control), difference) for control in compared]
    teacher, size = report["teacher"], report["student_parameters"]
    parts = [
        f"{report['task']}: right answers in % ({report['metric']}), n = {report['n']}, {report['seeds']} seeds; "
        f"teacher {teacher['accuracy']:.1f} ({teacher['parameters']:,} parameters; students {size:,})",
        Table.of(shown, report["students"]).text(),
    ]
    parts += [text for text in (overlap_text(report["overlap"]), speed_text(report.get("throughput"))) if text]
    if report["published"] is not None:
        parts.append(NOT_COMPARABLE.format(published=report["published"]))
    return "\n\n".join(parts)


def _against(control: str, line: Mapping[str, Any]) -> Any:
    return line.get(f"minus_{control}")


def difference(tested: Mapping[str, float] | None) -> str:
    """Return a difference with its interval."""
    return "-" if tested is None else estimate(tested["difference"], tested, 1, "+")


def overlap_text(found: Mapping[str, Any]) -> str:
    """Return the table of overlaps, or nothing where no source holds its answer."""
    shares = ("words", "words_expected", "rows", "rows_expected")
    rows = [
        [name, one["count"], *(f"{one[which]:.1%}" for which in shares)]
        for name, one in found["methods"].items()
        if one is not None
    ]
    head = ["attribution", "rows", "of the words", "expected", "of the rows", "expected"]
    title = f"The {found['k']} words and the answer's {found['of']} in the source (published: 68%)"
    return Table(head, rows).text(title) if rows else ""


def speed_text(found: Mapping[str, Any] | None) -> str:
    """Return the throughput as sentences."""
    if found is None:
        return ""
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in found["rows_per_second"].items())
    ratios = "; ".join(
        f"{one['median']:.2f} [{one['low']:.2f}, {one['high']:.2f}] times {name}"
        for name, one in found["ratio"].items()
    )
    return f"Rows a second: {rates}. Ours: {ratios} (median, least and most of {found['rounds']} interleaved rounds)."
