"""What `wheels bench passes` found, as plain text for a terminal, and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from wheels.benchmarks.curve.plot import metric_name
from wheels.benchmarks.curve.table import WHERE_MEASURED, if_measured, interval, number
from wheels.benchmarks.passes.summary import PassPoint, means
from wheels.tables import align


def as_text(points: Sequence[PassPoint], metrics: Sequence[str]) -> str:
    """Return the settings' table, means over seeds, in order of passes within each family."""
    names = [metric_name(metric) for metric in metrics]
    table = [["method", "passes", "positions", "use", *names, *(f"gap, {name}" for name in names)]]
    families = list(dict.fromkeys(point.family for point in points))
    for point in sorted(means(points), key=lambda point: (families.index(point.family), point.passes)):
        shares = (number(point.gap[metric], 2) for metric in metrics)
        scores = (number(point.metrics[metric]) for metric in metrics)
        costs = (number(value, 3) for value in (point.passes, point.positions, point.use))
        table.append([f"{point.family}, {point.label}", *costs, *scores, *shares])
    words = "passes and positions of the teacher per generated token; use: share of tokens it wrote; means over seeds"
    return f"{align(table)}\n({words})"


def equal_text(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return one metric at equal passes: a line a curve, with interval and share of the gap."""
    mine = {(row["line"], row["passes"]): row for row in rows if row["metric"] == metric}
    costs = sorted({cost for _, cost in mine})
    table = [["curve", *(f"{cost:g} passes" for cost in costs)]]
    for line in dict.fromkeys(line for line, _ in mine):
        cells = []
        for row in (mine.get((line, cost)) for cost in costs):
            cells.append("-" if row is None else if_measured(row["value"], _equal(row)))
        table.append([line, *cells])
    head = f"{metric_name(metric)} at equal teacher passes per token [95% interval] and share of the gap"
    return f"{head} (-: the curve does not reach it; {WHERE_MEASURED}):\n{align(table)}"


def _equal(row: Mapping[str, Any]) -> str:
    """Return a value with its interval and its share of the gap."""
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}] {number(row['gap'], 2)}"


def versus_text(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return the differences to the best baseline at equal passes."""
    table = [["curve - best baseline there", "passes", metric_name(metric), "95% interval", "of the gap", "p"]]
    for row in rows:
        if row["metric"] == metric:
            difference = if_measured(row["difference"], number(row["difference"], 2))
            cells = [difference, interval(row), number(row["gap_difference"], 2), number(row["p"], 3)]
            table.append([f"{row['line']} - {row['baseline']}", f"{row['passes']:g}", *cells])
    return (
        "difference at equal teacher passes, paired bootstrap over rows and seeds (the baseline is the best there on "
        "these very rows, of deferral, BiLD, cascades, take-back and speculation, as far as measured there; p "
        f"is not corrected for the number of comparisons, which are exploratory):\n{align(table)}"
    )


def speculation_text(found: Mapping[str, Any] | None) -> str:
    """Return what lossless speculation does not offer, as a sentence and its settings."""
    if found is None:
        return "lossless speculation was not measured"
    words = (
        f"what lossless speculation does not offer: it needs at least {found['passes']:.3f} passes per token "
        f"({found['label']}); with fewer, {len(found['below'])} settings recover at least {found['least_gap']:.0%} of "
        f"the gap in {metric_name(found['metric'])}"
    )
    table = [["method", "passes", "gap"]]
    table += [
        [f"{row['family']}, {row['label']}", number(row["passes"], 3), number(row["gap"], 2)] for row in found["below"]
    ]
    return f"{words}:\n{align(table)}" if found["below"] else f"{words}."


def as_csv(points: Sequence[PassPoint], metrics: Sequence[str]) -> str:
    """Return every decode, a line each; a number that does not exist is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ["family", "setting", "curve", "seed", "passes", "positions", "use"]
    writer.writerow([*names, *metrics, *(f"gap_{each}" for each in metrics), "signature"])
    for point in points:
        numbers = [point.passes, point.positions, point.use, *point.metrics.values(), *point.gap.values()]
        cells = [f"{value:.4f}" if math.isfinite(value) else "" for value in numbers]
        seed = "" if point.seed is None else point.seed
        writer.writerow([point.family, point.label, point.line, seed, *cells, point.signature])
    return buffer.getvalue()


def shown(found: Mapping[str, Any], points: Sequence[PassPoint], metrics: Sequence[str]) -> str:
    """Return everything that the terminal is told."""
    parts = [f"note: {note}" for note in found["notes"]]
    parts.append(as_text(points, metrics))
    parts += [equal_text(found["at_passes"], metric) for metric in metrics if found["at_passes"]]
    parts += [versus_text(found["versus"], metric) for metric in metrics[:1] if found["versus"]]
    parts.append(speculation_text(found["speculation"]))
    return "\n\n".join(parts)
