"""A curve as plain text for a terminal, and as CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wheels.benchmarks.core.bootstrap import APART, LEAST_GAP
from wheels.benchmarks.curve.summary import interior, uses_shown
from wheels.metrics import metric_name
from wheels.output.tables import Column, Table, band, columns, digits, number

NOT_MEASURED = "not measured"
"""Shown where no measured point is near enough (`wheels.benchmarks.core.bootstrap.is_measured`)."""
WHERE_MEASURED = (
    f"{NOT_MEASURED}: the neighbouring points lie more than {APART:g} apart and none of them is near enough"
)
"""What readers are told of it."""


def if_measured(value: float, text: str) -> str:
    """Return `text` of a value, or the words for one that was not measured."""
    return text if math.isfinite(value) else NOT_MEASURED


def area_or_use(curve: Mapping[str, Any], value: float, digits: int) -> str:
    """Return an area under a curve, or a use that it reaches a level at; a dash where the gap is too small for any."""
    has_gap = curve["teacher"]["quality"] - curve["student"]["quality"] >= LEAST_GAP
    return if_measured(value, number(value, digits)) if has_gap else number(math.nan)


def row_at(curve: Mapping[str, Any], rule: str, metric: str, use: float) -> dict[str, Any]:
    """Return the entry of `at_use` of a rule at a use."""
    return next(row for row in curve["at_use"] if (row["rule"], row["metric"], row["use"]) == (rule, metric, use))


def as_text(curve: Mapping[str, Any]) -> str:
    """Return the curve's main numbers for a terminal."""
    ends = [
        f"{metric_name(metric)} {curve['student']['metrics'][metric]:.1f} -> {curve['teacher']['metrics'][metric]:.1f}"
        for metric in curve["metrics"]
    ]
    head = f"{curve['task']}: {curve['sentences']} rows, {curve['mode']} mode; student alone -> teacher alone: "
    parts = [head + ", ".join(ends)]
    parts += [f"note: {note}" for note in curve["notes"]]
    parts += [_use_table(curve, metric) for metric in curve["metrics"] if interior(curve)]
    if interior(curve):
        parts += [_area_table(curve)]
    if curve["paired"]:
        parts += [_test_table(curve)]
    return "\n\n".join(parts) + "\n"


def _test_table(curve: Mapping[str, Any]) -> str:
    """Return the paired comparisons of the quality: a line each."""

    def pair(test: Mapping[str, Any]) -> str:
        best = " (best trivial)" if test["against"] == "best trivial" else ""
        return f"{test['rule']} - {test['baseline']}{best}"

    shown = [
        Column("rule - baseline", pair),
        Column("use", "budget"),
        Column(metric_name(curve["metrics"][0]), "difference", lambda value: if_measured(value, number(value, 2))),
        Column("95% interval", band),
        Column("of the gap", "pgr_difference", digits(2)),
        Column("p", show=digits(3)),
        Column("Holm", "p_holm", digits(3)),
    ]
    quality, uses = curve["metrics"][0], uses_shown(interior(curve))
    tests = [test for test in curve["paired"] if test["metric"] == quality and test["budget"] in uses]
    words = "(Holm: p corrected for the number of comparisons of that rule in this table)"
    return f"{Table.of(shown, tests).text('difference at equal teacher use, paired bootstrap')}\n{words}"


def _use_table(curve: Mapping[str, Any], metric: str) -> str:
    """Return a metric at equal teacher use: a line a rule, the share of the gap in brackets."""

    def shown(rule: str, use: float) -> str:
        row = row_at(curve, rule, metric, use)
        return if_measured(row["value"], f"{number(row['value'])} ({number(row['pgr'], 2)})")

    uses = uses_shown(interior(curve))
    rows = [[rule, len(curve["seeds"][rule]), *(shown(rule, use) for use in uses)] for rule in curve["rules"]]
    words = f"\n({WHERE_MEASURED})" if any(NOT_MEASURED in row for row in rows) else ""
    title = f"{metric_name(metric)} at equal teacher use (share of the student-teacher gap)"
    return Table(["rule", "seeds", *(f"use {use:g}" for use in uses)], rows).text(title) + words


def _area_table(curve: Mapping[str, Any]) -> str:
    """Return areas, thresholds and adherence: a line a rule."""
    strict = curve["mode"] == "strict"
    head = ["rule", "area 0-1", "area 0-0.3", "use for 50%", "80%", "95%", "error of use"]
    rows = []
    for rule in curve["rules"]:
        kept = curve["adherence"][rule]
        areas = [area_or_use(curve, area, 3) for area in curve["apgr"][rule].values()]
        uses = [area_or_use(curve, use, 2) for use in curve["cpt"][rule].values()]
        violations = [kept["violations"]] if strict else []
        rows.append([rule, *areas, *uses, number(kept["mean_abs_error"], 3), *violations])
    title = "area under the share of the gap; least use that recovers a share; how budgets were kept"
    return Table([*head, *(["violations"] if strict else [])], rows).text(title)


def as_csv(curve: Mapping[str, Any]) -> str:
    """Return the points as CSV, a line each; a number that does not exist is an empty cell."""
    found = columns("rule", "seed", "budget", "use", "use_p95") + columns(*curve["metrics"], under="metrics")
    found += columns("pgr", "passes_per_token", "positions_per_token", "seconds", "signature")
    return Table.of(found, curve["points"]).csv()
