"""Every rule at one budget, and its area under the curve against maxprob."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from wheels.benchmarks.core.bootstrap import compare, interval, share_of_gap
from wheels.benchmarks.core.cell import PointKey
from wheels.benchmarks.curve.measured import Measured
from wheels.benchmarks.curve.resampled import Curves, Resampled, per_token

BASELINE = "maxprob"
"""The rule whose area the others are compared with."""


def decodes_at(measured: Measured, sample: Resampled) -> list[dict[str, Any]]:
    """Return quality and cost of each rule's decodes at the budget `measured.shown`, mean over seeds.

    Nothing is interpolated: each rule is at the use that it measured under this budget.
    """
    budget = measured.shown
    return [] if budget is None else [_decode_at(measured, sample, rule, budget) for rule in measured.rules]


def _decode_at(measured: Measured, sample: Resampled, rule: str, budget: float) -> dict[str, Any]:
    """Return the line of one rule."""
    keys = [PointKey(rule, seed, budget) for seed in sample.seeds(rule)]
    spent, quality = per_token([record for key in keys for record in measured.outputs[key]]), measured.metrics[0]
    return {
        "rule": rule,
        "budget": budget,
        "use": sum(float(sample.use[key][0]) for key in keys) / len(keys),
        "metrics": {metric: interval(sample.mean(keys, metric)) for metric in measured.metrics},
        "pgr": interval(share_of_gap(sample.mean(keys, quality), *sample.ends(quality))),
        "passes_per_token": spent["passes_per_token"],
        "positions_per_token": spent["positions_per_token"],
    }


def area_tests(measured: Measured, curves: Curves, bounds: tuple[float, float]) -> list[dict[str, Any]]:
    """Return each rule's area between `bounds` minus that of `maxprob`, by a paired bootstrap over rows and seeds."""
    if BASELINE not in measured.rules or not measured.interior:
        return []
    quality = measured.metrics[0]
    baseline_Z = curves.area(BASELINE, quality, *bounds)
    return [
        {"rule": rule, "baseline": BASELINE, "low_use": bounds[0], "high_use": bounds[1], "metric": quality}
        | asdict(compare(curves.area(rule, quality, *bounds) - baseline_Z))
        for rule in measured.rules
        if rule != BASELINE
    ]
