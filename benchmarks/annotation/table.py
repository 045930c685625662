"""Tables of `wheels bench annotation`: text and CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wheels.benchmarks.annotation.summary import FILTER_FIGURES, SCORE_FIGURES
from wheels.metrics import metric_name
from wheels.output.tables import Column, Table, band, columns, digits, estimate

KEYS = ("strategy", "budget", "warm_up", "teacher", "assistant")
HEADINGS = ("strategy", "budget", "warm-up", "teacher", "assistant")


def as_text(summary: Mapping[str, Any]) -> str:
    """Return the tables: quality, paired differences, and the filter alone."""
    start = ", ".join(f"{metric_name(name)} {value:.1f}" for name, value in summary["start"].items())
    head = (
        f"{summary['task']}: {summary['test_rows']} test rows, pool of {summary['pool_rows']}, "
        f"{summary['seeds']} seeds; the student before any annotation: {start}"
    )
    return "\n\n".join([head, _quality(summary), _differences(summary), _filters(summary)]) + "\n"


def _keys(names: Sequence[str] = KEYS) -> list[Column]:
    """Return the columns that identify a row."""
    return [Column(name, key) for name, key in zip(names, KEYS, strict=True)]


def _mean(name: str, count: int) -> Callable[[Mapping[str, Any]], str]:
    return lambda line: f"{np.mean(line[name]):.{count}f}"


def _quality(summary: Mapping[str, Any]) -> str:
    """Return quality and labels by group: mean over seeds, lowest and highest in brackets."""

    def score(values: Sequence[float]) -> str:
        return f"{np.mean(values):.2f} ({min(values):.1f}-{max(values):.1f})"

    of_labels = f"their {metric_name(summary['label_metric'])}"
    shown = [*_keys(HEADINGS), *(Column(metric_name(name), name, score) for name in summary["metrics"])]
    shown += [Column("right bought", _mean("right_bought", 3)), Column(of_labels, _mean("score_bought", 1))]
    shown += [Column("trained on", _mean("accepted", 0))]
    shown += [Column("right there", _mean("right_trained_on", 3)), Column(of_labels, _mean("score_trained_on", 1))]
    return Table.of(shown, summary["points"]).text(
        "quality of the student at equal spend (mean, lowest to highest seed)"
    )


def _differences(summary: Mapping[str, Any]) -> str:
    """Return the paired comparisons of the first metric."""
    first = summary["metrics"][0]
    shown = [*_keys(HEADINGS), Column("minus"), Column(metric_name(first), "difference", digits(2))]
    shown.append(Column("95% interval", band))
    lines = [line for line in summary["paired"] if line["metric"] == first]
    return Table.of(shown, lines).text("difference at equal spend, paired bootstrap over test rows and seeds")


def _filters(summary: Mapping[str, Any]) -> str:
    """Return the effect of each assistant's filter on the whole pool."""
    name = metric_name(summary["label_metric"])
    shares = ("right before", "right after", "lift", "let through", "right let through", "wrong stopped")
    scores = (f"{name} before", f"{name} after", "lift")
    shown = columns("assistant", "teacher")
    for count, headings, figures in ((3, shares, FILTER_FIGURES), (1, scores, SCORE_FIGURES)):
        shown += [Column(*pair, _with_interval(count)) for pair in zip(headings, figures, strict=True)]
    title = "the filter alone, on the whole pool (mean over seeds, 95% interval over labels and seeds)"
    return Table.of(shown, summary["filters"]).text(title)


def _with_interval(count: int) -> Callable[[Mapping[str, float]], str]:
    return lambda found: estimate(found["difference"], found, count)


def as_csv(summary: Mapping[str, Any]) -> str:
    """Return the points as CSV: a line a cell, with its signature."""
    names = (*summary["metrics"], "accepted", "right_bought", "right_trained_on", "score_bought", "score_trained_on")
    rows = [
        [line[key] for key in KEYS] + [line[name][place] for name in names] + [signature]
        for line in summary["points"]
        for place, signature in enumerate(line["signatures"])
    ]
    return Table([*KEYS, *names, "signature"], rows).csv()
