"""From records to a curve: points, areas, thresholds, comparisons, adherence to budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from wheels import __version__
from wheels.benchmarks.core.bootstrap import (
    apgr,
    compare,
    cpt,
    foresight_share,
    holm,
    interval,
    over_allowance,
    share_of_gap,
    warn_of_gap,
)
from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey
from wheels.benchmarks.curve.resampled import Curves, Measured, Resampled, SentenceStatistics, per_token
from wheels.decoding.methods.rules import TRAINED
from wheels.decoding.trace import TEACHER

TRIVIAL = ("maxprob", "entropy", "margin")
"""Thresholds on the student's own probabilities: what a learned rule must beat."""
BASELINE = "maxprob"
"""The rule whose area the others are compared with."""
SHOWN_USES = (0.1, 0.2, 0.3)
"""The uses that the short tables show, where they are among the budgets."""
INTERVALS = {"0-1": (0.0, 1.0), "0-0.3": (0.0, 0.3)}
LEVELS = (50, 80, 95)
QUANTILES = (5, 25, 50, 75, 95)
"""Percentiles of the use per output."""


def interior(found: Mapping[str, Any]) -> list[float]:
    """Return the budgets of a curve at which both models write."""
    return [budget for budget in found["budgets"] if 0.0 < budget < 1.0]


def summarise(measured: Measured, statistics: SentenceStatistics) -> dict[str, Any]:
    """Return the curve of these outputs: what `curve.json` holds, nan for a number that does not exist.

    - `metrics`: the first is the quality; `student`, `teacher`: each alone.
    - `points`: every rule, seed and budget; the ends 0 and 1 were decoded once and stand under every rule.
    - `apgr`, `cpt`: area under PGR by interval of use, and least use that reaches 50, 80, 95% of the gap; means over
      seeds. `apgr_seeds`: seed by seed.
    - `at_use`, `paired`: each rule at equal use, with 95% intervals, and paired bootstrap comparisons there.
    - `at_budget`, `apgr_paired`: see `wheels.benchmarks.curve.summary`.
    - `details`, `metric_signatures`, `versions`: filled in by the run.
    """
    sample = Resampled(
        measured.outputs, measured.references, measured.metrics, statistics, measured.resamples, measured.seed
    )
    quality = measured.metrics[0]
    student, teacher = (float(end_Z[0]) for end_Z in sample.ends(quality))
    warn_of_gap(student, teacher)
    curves = sample.over_use(measured.rules)
    places = [(metric, use) for metric in measured.metrics for use in measured.interior]
    areas = {rule: _areas(curves, rule, quality) for rule in measured.rules}
    words = (measured.task, len(measured.references), measured.student, measured.teacher, f"wheels:{__version__}")
    return {
        "task": measured.task,
        "sentences": len(measured.references),
        "mode": measured.mode,
        "metrics": list(measured.metrics),
        "budgets": list(measured.budgets),
        "rules": list(measured.rules),
        "seeds": {rule: sample.seeds(rule) or [0] for rule in measured.rules},
        "student": _end(measured, sample, STUDENT_END, measured.student),
        "teacher": _end(measured, sample, TEACHER_END, measured.teacher),
        "points": [point for rule in measured.rules for point in _points(measured, sample, rule)],
        "apgr": {rule: {name: float(np.mean(seeds)) for name, seeds in area.items()} for rule, area in areas.items()},
        "apgr_seeds": areas,
        "cpt": {rule: _thresholds(curves, rule, quality) for rule in measured.rules},
        "at_use": [row for place in places for row in _at_use(measured, curves, *place)],
        "paired": with_holm([row for place in places for row in _tests(measured, curves, *place)], measured.interior),
        "adherence": {rule: _adherence(measured, sample, rule) for rule in measured.rules},
        "at_budget": decodes_at(measured, sample),
        "apgr_paired": area_tests(measured, curves, INTERVALS["0-0.3"]),
        "notes": list(measured.notes),
        "signature": "|".join(map(str, words)),
        "details": {},
        "metric_signatures": {},
        "versions": {},
    }


def _point(measured: Measured, sample: Resampled, key: PointKey, rule: str, seed: int) -> dict[str, Any]:
    """Return the point of one decode, named `rule` and `seed` (the ends belong to all rules).

    `use`, `passes_per_token` and `positions_per_token` are the teacher's over the whole split; `use_p95` is the 95th
    percentile of the use of single outputs; `pgr` is nan where the gap is under 1 point.
    """
    records = measured.outputs[key]
    spent = per_token(records)
    metrics = {metric: float(sample.quality[metric, key][0]) for metric in measured.metrics}
    quality = metrics[measured.metrics[0]]
    ends = (end_Z[0] for end_Z in sample.ends(measured.metrics[0]))
    place = (measured.task, len(records), measured.student, measured.teacher, rule, f"{key.budget:g}", seed)
    return {
        "rule": rule,
        "budget": key.budget,
        "use": spent["use"],
        "use_p95": float(np.percentile([record.use for record in records], 95)),
        "metrics": metrics,
        "quality": quality,
        "pgr": float(share_of_gap(quality, *ends)),
        "passes_per_token": spent["passes_per_token"],
        "positions_per_token": spent["positions_per_token"],
        "seconds": sum(record.seconds for record in records),
        "seed": seed,
        "signature": "|".join(map(str, (*place, f"wheels:{__version__}"))),
    }


def _points(measured: Measured, sample: Resampled, rule: str) -> list[dict[str, Any]]:
    """Return the points of `rule` at every budget that was asked for."""
    ends = {0.0: STUDENT_END, 1.0: TEACHER_END}
    return [
        _point(measured, sample, ends.get(budget, PointKey(rule, seed, budget)), rule, seed)
        for seed in sample.seeds(rule) or [0]
        for budget in measured.budgets
    ]


def _end(measured: Measured, sample: Resampled, key: PointKey, name: str) -> dict[str, Any]:
    """Return quality and cost of one model alone."""
    point = _point(measured, sample, key, key.rule, key.seed)
    kept = ("metrics", "quality", "use", "passes_per_token", "positions_per_token", "seconds", "signature")
    return {"name": name} | {field: point[field] for field in kept}


def _areas(curves: Curves, rule: str, metric: str) -> dict[str, list[float]]:
    """Return APGR by interval, seed by seed."""
    lines = [(use_ZP[0], share_ZP[0]) for use_ZP, share_ZP in curves.shares(rule, metric)]
    return {name: [apgr(*line, low, high) for line in lines] for name, (low, high) in INTERVALS.items()}


def _thresholds(curves: Curves, rule: str, metric: str) -> dict[str, float]:
    """Return CPT by level, mean over seeds."""
    lines = [(use_ZP[0], share_ZP[0]) for use_ZP, share_ZP in curves.shares(rule, metric)]
    return {str(level): float(np.mean([cpt(*line, level / 100) for line in lines])) for level in LEVELS}


def _at_use(measured: Measured, curves: Curves, metric: str, use: float) -> list[dict[str, Any]]:
    """Return every rule's metric at exactly `use`, with intervals and the foresight share."""
    rows = []
    for rule in measured.rules:
        row: dict[str, Any] = {"rule": rule, "use": use, "metric": metric} | interval(curves.at(rule, metric, use))
        row |= interval(curves.share(rule, metric, use), "pgr", "pgr_low", "pgr_high")
        if {"random", "foresight"} <= set(measured.rules):
            floor, top = (float(curves.at(name, metric, use)[0]) for name in ("random", "foresight"))
            row["foresight_share"] = foresight_share(row["value"], floor, top)
        rows.append(row)
    return rows


def _tests(measured: Measured, curves: Curves, metric: str, use: float) -> list[dict[str, Any]]:
    """Return the paired comparisons of the trained rules at exactly `use`.

    The best trivial rule is the best on this very sample, which favours it: the comparison errs on the safe side. It is
    the best of those that were measured there.
    """
    trivial = [rule for rule in TRIVIAL if rule in measured.rules]
    best = curves.best(trivial, metric, use)
    first = [("best trivial", best)] if best else [(name, name) for name in trivial[:1]]
    rows = []
    for rule in (name for name in TRAINED if name in measured.rules):
        rivals = ("random", *TRAINED) if rule == "learned" else ("random", "regret")
        for against, baseline in first + [(name, name) for name in rivals if name in measured.rules and name != rule]:
            points, shares = curves.versus(rule, baseline, metric, use)
            rows.append(
                {"rule": rule, "baseline": baseline, "against": against, "budget": use, "metric": metric}
                | asdict(points)
                | {"pgr_difference": shares.difference, "pgr_low": shares.low, "pgr_high": shares.high}
            )
    return rows


def uses_shown(interior: Sequence[float]) -> list[float]:
    """Return the uses of the short tables: those of 0.1, 0.2 and 0.3 among the budgets, else all."""
    return [use for use in SHOWN_USES if use in interior] or list(interior)


def with_holm(rows: list[dict[str, Any]], interior: Sequence[float]) -> list[dict[str, Any]]:
    """Add `p_holm`: p corrected over one rule's comparisons in one metric at the uses that tables show.

    nan for the others, which are exploratory.
    """
    shown = uses_shown(interior)
    corrected = {id(row): math.nan for row in rows}
    for rule, metric in dict.fromkeys((row["rule"], row["metric"]) for row in rows):
        family = [row for row in rows if (row["rule"], row["metric"]) == (rule, metric) and row["budget"] in shown]
        corrected |= dict(zip(map(id, family), holm([row["p"] for row in family]), strict=True))
    return [row | {"p_holm": corrected[id(row)]} for row in rows]


def _adherence(measured: Measured, sample: Resampled, rule: str) -> dict[str, Any]:
    """Return how far measured use is from the budgets, and what single outputs use.

    `violations` counts the outputs with a prefix over its allowance; None where the mode promises none.
    """
    keys = [PointKey(rule, seed, budget) for seed in sample.seeds(rule) for budget in measured.interior]
    errors = [abs(float(sample.use[key][0]) - key.budget) for key in keys]
    violations = None
    if measured.mode == "strict":
        violations = sum(
            over_allowance([author == TEACHER for author in record.authors], key.budget, measured.burst)
            for key in keys
            for record in measured.outputs[key]
        )
    uses = {b: [r.use for key in keys if key.budget == b for r in measured.outputs[key]] for b in measured.interior}
    quantiles = {f"{budget:g}": np.percentile(shares, QUANTILES).tolist() for budget, shares in uses.items()}
    p95 = {budget: shares[-1] for budget, shares in quantiles.items()}
    return {
        "mean_abs_error": float(np.mean(errors)) if errors else math.nan,
        "worst_abs_error": max(errors, default=math.nan),
        "violations": violations,
        "use_p95": p95,
        "use_quantiles": quantiles,
    }


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
