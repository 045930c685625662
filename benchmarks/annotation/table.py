"""The figures of `wheels bench annotation` as text for a terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from wheels.benchmarks.annotation.summary import SCORE_FIGURES
from wheels.benchmarks.curve.plot import metric_name
from wheels.benchmarks.curve.table import number
from wheels.tables import align

KEYS = ("strategy", "budget", "warm_up", "teacher", "assistant")


def as_text(summary: Mapping[str, Any]) -> str:
    """Return the tables: quality, paired differences, and the filter alone."""
    start = ", ".join(f"{metric_name(name)} {value:.1f}" for name, value in summary["start"].items())
    head = (f"{summary['task']}: {summary['test_rows']} test rows, pool of {summary['pool_rows']}, "
            f"{summary['seeds']} seeds; the student before any annotation: {start}")  # fmt: skip
    return "\n\n".join([head, _quality(summary), _differences(summary), _filters(summary)]) + "\n"


def _cells(line: Mapping[str, Any]) -> list[str]:
    """Return what a line is of."""
    return [line["strategy"], str(line["budget"]), f"{line['warm_up']:g}", line["teacher"],
            line["assistant"]]  # fmt: skip


def _quality(summary: Mapping[str, Any]) -> str:
    """Return quality and labels: a line a group, means over seeds, the lowest and the highest in brackets."""
    metrics = summary["metrics"]
    of_labels = f"their {metric_name(summary['label_metric'])}"
    rows = [[*(key.replace("_", "-") for key in KEYS), *map(metric_name, metrics), "right bought", of_labels,
             "trained on", "right there", of_labels]]  # fmt: skip
    for line in summary["points"]:
        scores = [f"{np.mean(line[name]):.2f} ({min(line[name]):.1f}-{max(line[name]):.1f})" for name in metrics]
        bought, kept = (
            [f"{np.mean(line[f'right_{which}']):.3f}", f"{np.mean(line[f'score_{which}']):.1f}"]
            for which in ("bought", "trained_on")
        )
        rows.append([*_cells(line), *scores, *bought, f"{np.mean(line['accepted']):.0f}", *kept])
    return f"quality of the student at equal spend (mean, lowest to highest seed):\n{align(rows)}"


def _differences(summary: Mapping[str, Any]) -> str:
    """Return the paired comparisons of the first metric."""
    first = summary["metrics"][0]
    rows = [[*(key.replace("_", "-") for key in KEYS), "minus", metric_name(first), "95% interval"]]
    for line in summary["paired"]:
        if line["metric"] == first:
            interval = f"[{number(line['low'], 2)}, {number(line['high'], 2)}]"
            rows.append([*_cells(line), line["minus"], number(line["difference"], 2), interval])
    return f"difference at equal spend, paired bootstrap over test rows and seeds:\n{align(rows)}"


def _filters(summary: Mapping[str, Any]) -> str:
    """Return what each assistant's filter does to the whole pool with wrong labels."""
    name = metric_name(summary["label_metric"])
    rows = [["assistant", "teacher", "right before", "right after", "lift", "let through", "right let through",
             "wrong stopped", f"{name} before", f"{name} after", "lift"]]  # fmt: skip
    for line in summary["filters"]:
        cells = [f"{line[name]['difference']:.3f} [{line[name]['low']:.3f}, {line[name]['high']:.3f}]"
                 for name in ("right_before", "right_after", "lift", "kept", "recall", "wrong_caught")]  # fmt: skip
        cells += [f"{line[name]['difference']:.1f} [{line[name]['low']:.1f}, {line[name]['high']:.1f}]"
                  for name in SCORE_FIGURES]  # fmt: skip
        rows.append([line["assistant"], line["teacher"], *cells])
    return f"the filter alone, on the whole pool (mean over seeds, 95% interval over labels and seeds):\n{align(rows)}"


def as_csv(summary: Mapping[str, Any]) -> str:
    """Return the points as CSV: a line a cell, with its signature."""
    metrics = summary["metrics"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = (*metrics, "accepted", "right_bought", "right_trained_on", "score_bought", "score_trained_on")
    writer.writerow([*KEYS, *names, "signature"])
    for line in summary["points"]:
        for place, signature in enumerate(line["signatures"]):
            writer.writerow([*_cells(line), *(f"{line[name][place]:.6g}" for name in names), signature])
    return buffer.getvalue()
