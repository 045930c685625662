"""The ceiling as plain text for a terminal, and as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wheels.benchmarks.ceiling.ceilings import IMITATION, ceiling_of
from wheels.benchmarks.curve.table import if_measured
from wheels.metrics import metric_name
from wheels.output.tables import Table, columns, estimate, number

CLAIM = (
    "the ceiling knows the references, and no rule can; it was found by a search, so the true one may lie higher; "
    f"{IMITATION} knows the teacher's texts and not the references"
)
"""What a reader must know of the figures."""


def as_text(found: Mapping[str, Any]) -> str:
    """Return a table for each metric, and what the search did."""
    ends = [
        f"{metric_name(metric)} {found['student'][metric]:.1f} -> {found['teacher'][metric]:.1f}"
        for metric in found["metrics"]
    ]
    parts = [f"{found['task']}: {found['rows']} rows; student alone -> teacher alone: {', '.join(ends)}"]
    parts += [f"note: {note}" for note in found["notes"]]
    parts += [_metric_table(found, metric) for metric in found["metrics"]]
    did = found["search"]
    parts.append(
        f"{did['texts']} texts in {did['rounds']} rounds; {did['closed']} of {found['rows']} rows closed (every text "
        f"that any calls make was tried), the others stopped at {did['most']} texts\n({CLAIM})"
    )
    return "\n\n".join(parts) + "\n"


def _metric_table(found: Mapping[str, Any], metric: str) -> str:
    """Return one metric at equal use: a line a rule, with its shares of the way from random to both tops."""
    cells = {(row["rule"], row["use"]): row for row in found["at_use"] if row["metric"] == metric}

    def shown(rule: str, use: float) -> str:
        row = cells[rule, use]
        share = {"low": row["share_low"], "high": row["share_high"]}
        shares = f"{estimate(row['share'], share)}, {number(row['imitated'], 2)}"
        return if_measured(row["value"], f"{number(row['value'])} ({shares})")

    rows = [
        [name, *(shown(rule, use) for use in found["budgets"])]
        for rule, name in [*((each, each) for each in (*found["rules"], IMITATION)), (ceiling_of(metric), "ceiling")]
    ]
    shares = f"share of the way from random to the ceiling [95% interval], and to {IMITATION}"
    title = f"{metric_name(metric)} at equal teacher use ({shares})"
    return Table(["rule", *(f"use {use:g}" for use in found["budgets"])], rows).text(title)


def as_csv(found: Mapping[str, Any]) -> str:
    """Return each rule at each use as CSV."""
    shares = (f"{share}{end}" for share in ("share", "imitated") for end in ("", "_low", "_high"))
    names = ("rule", "metric", "use", "value", "low", "high", *shares)
    return Table.of(columns(*names), found["at_use"]).csv()
