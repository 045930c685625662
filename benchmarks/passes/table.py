"""Tables of `wheels bench passes`: text and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wheels.benchmarks.curve.table import WHERE_MEASURED, if_measured
from wheels.benchmarks.passes.summary import Point, means
from wheels.metrics import metric_name
from wheels.output.tables import Column, Table, band, columns, digits, estimate, number


def as_text(points: Sequence[Point], metrics: Sequence[str]) -> str:
    """Return the settings' table, means over seeds, in order of passes within each family."""
    shown = [Column("method", lambda point: f"{point['family']}, {point['label']}")]
    shown += [
        *columns("passes", "positions", "use", show=digits(3)),
        *columns(*metrics, show=digits(1), under="metrics", heading=metric_name),
    ]
    shown += columns(*metrics, show=digits(2), under="gap", heading=lambda metric: f"gap, {metric_name(metric)}")
    families = list(dict.fromkeys(point["family"] for point in points))
    rows = sorted(means(points), key=lambda point: (families.index(point["family"]), point["passes"]))
    words = "passes and positions of the teacher per generated token; use: share of tokens it wrote; means over seeds"
    return f"{Table.of(shown, rows).text()}\n({words})"


def equal_text(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return one metric at equal passes: a line a curve, with interval and share of the gap."""
    mine = {(row["line"], row["passes"]): row for row in rows if row["metric"] == metric}
    costs = sorted({cost for _, cost in mine})
    curves = dict.fromkeys(line for line, _ in mine)
    lines = [[line, *(_equal(mine.get((line, cost))) for cost in costs)] for line in curves]
    title = f"{metric_name(metric)} at equal teacher passes per token [95% interval] and share of the gap"
    title += f" (-: the curve does not reach it; {WHERE_MEASURED})"
    return Table(["curve", *(f"{cost:g} passes" for cost in costs)], lines).text(title)


def _equal(row: Mapping[str, Any] | None) -> str:
    """Return a value with its interval and its share of the gap."""
    if row is None:
        return "-"
    return if_measured(row["value"], f"{estimate(row['value'], row, 1)} {number(row['gap'], 2)}")


def versus_text(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return the differences to the best baseline at equal passes."""
    shown = [
        Column("curve - best baseline there", lambda row: f"{row['line']} - {row['baseline']}"),
        Column("passes"),
        Column(metric_name(metric), "difference", lambda value: if_measured(value, number(value, 2))),
        Column("95% interval", band),
        Column("of the gap", "gap_difference", digits(2)),
        Column("p", show=digits(3)),
    ]
    return Table.of(shown, [row for row in rows if row["metric"] == metric]).text(
        "difference at equal teacher passes, paired bootstrap over rows and seeds (the baseline is the best there on "
        "these very rows, of deferral, BiLD, cascades, take-back and speculation, as far as measured there; p "
        "is not corrected for the number of comparisons, which are exploratory)"
    )


def speculation_text(found: Mapping[str, Any] | None) -> str:
    """Return the settings that are cheaper than lossless speculation."""
    if found is None:
        return "lossless speculation was not measured"
    words = (
        f"what lossless speculation does not offer: it needs at least {found['passes']:.3f} passes per token "
        f"({found['label']}); with fewer, {len(found['below'])} settings recover at least {found['least_gap']:.0%} of "
        f"the gap in {metric_name(found['metric'])}"
    )
    shown = [Column("method", lambda row: f"{row['family']}, {row['label']}")]
    shown += [Column("passes", show=digits(3)), Column("gap", show=digits(2))]
    return Table.of(shown, found["below"]).text(words) if found["below"] else f"{words}."


def as_csv(points: Sequence[Point], metrics: Sequence[str]) -> str:
    """Return every decode, a line each; a number that does not exist is an empty cell."""

    def four(value: float) -> str:
        return f"{value:.4f}" if math.isfinite(value) else ""

    shown = [Column("family"), Column("setting", "label"), Column("curve", "line"), Column("seed")]
    shown += [*columns("passes", "positions", "use", show=four), *columns(*metrics, show=four, under="metrics")]
    shown += columns(*metrics, show=four, under="gap", heading="gap_{}".format)
    return Table.of([*shown, Column("signature")], points).csv()


def shown(found: Mapping[str, Any]) -> str:
    """Return all tables as text."""
    metrics, parts = list(found["metrics"]), [f"note: {note}" for note in found["notes"]]
    parts.append(as_text(found["points"], metrics))
    parts += [equal_text(found["at_passes"], metric) for metric in metrics if found["at_passes"]]
    parts += [versus_text(found["versus"], metric) for metric in metrics[:1] if found["versus"]]
    parts.append(speculation_text(found["speculation"]))
    return "\n\n".join(parts)
