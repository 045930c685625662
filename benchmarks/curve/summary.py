"""From records to a curve: points, areas, thresholds, comparisons, adherence to budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from wheels import __version__
from wheels.benchmarks.core.bootstrap import (
    Adherence,
    apgr,
    cpt,
    foresight_share,
    holm,
    interval,
    over_allowance,
    share_of_gap,
    warn_of_gap,
)
from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey
from wheels.benchmarks.curve.at_budget import area_tests, decodes_at
from wheels.benchmarks.curve.measured import Measured
from wheels.benchmarks.curve.resampled import Curves, Resampled, SentenceStatistics, per_token
from wheels.decoding.methods.rules import TRAINED
from wheels.decoding.trace import TEACHER

TRIVIAL = ("maxprob", "entropy", "margin")
"""Thresholds on the student's own probabilities: what a learned rule must beat."""
SHOWN_USES = (0.1, 0.2, 0.3)
"""The uses that the short tables show, where they are among the budgets."""
INTERVALS = {"0-1": (0.0, 1.0), "0-0.3": (0.0, 0.3)}
LEVELS = (50, 80, 95)
QUANTILES = (5, 25, 50, 75, 95)
"""Percentiles of the use per output."""


@dataclass(frozen=True)
class CurvePoint:
    """One decode of the whole split."""

    rule: str
    budget: float
    """Asked share of teacher tokens."""
    use: float
    """Measured share, over the whole split."""
    use_p95: float
    """95th percentile of the share per sequence."""
    metrics: dict[str, float]
    """Each metric, 0 to 100."""
    quality: float
    """The first metric."""
    pgr: float
    """Share of the student-teacher gap in quality; nan where the gap is under 1 point."""
    passes_per_token: float
    """Teacher forward passes per generated token."""
    positions_per_token: float
    """Positions of the output that the teacher read, per generated token."""
    seconds: float
    """Wall-clock time of the decode."""
    seed: int
    signature: str
    """`task|n|student|teacher|rule|budget|seed|wheels:x.y`."""


@dataclass(frozen=True)
class Curve:
    """A quality-vs-teacher-use curve with its statistics: the content of `curve.json`."""

    task: str
    sentences: int
    mode: str
    metrics: list[str]
    """The first is the quality."""
    budgets: list[float]
    rules: list[str]
    seeds: dict[str, list[int]]
    """Seeds of each rule."""
    student: dict[str, Any]
    """Name and metrics of the student alone, and what its decode took."""
    teacher: dict[str, Any]
    """The same of the teacher alone."""
    points: list[CurvePoint]
    """Every rule, seed and budget; the ends 0 and 1 were decoded once and stand under every rule."""
    apgr: dict[str, dict[str, float]]
    """Area under PGR over measured use, by interval; mean over seeds."""
    apgr_seeds: dict[str, dict[str, list[float]]]
    """The same, seed by seed."""
    cpt: dict[str, dict[str, float]]
    """Least use that reaches 50, 80, 95% of the gap; mean over seeds."""
    at_use: list[dict[str, Any]]
    """Each rule's metric and PGR at equal use, mean over seeds, with 95% intervals and foresight shares."""
    paired: list[dict[str, Any]]
    """Paired bootstrap comparisons at equal use."""
    adherence: dict[str, dict[str, Any]]
    """How well each rule kept its budgets."""
    at_budget: list[dict[str, Any]]
    """Each rule's decodes at the budget nearest to 0.2, mean over seeds (`wheels.benchmarks.curve.at_budget`)."""
    apgr_paired: list[dict[str, Any]]
    """Paired bootstrap comparisons of each rule's area up to use 0.3 with that of `maxprob`."""
    notes: list[str]
    signature: str
    details: dict[str, Any] = field(default_factory=dict)
    """Where the calls go, and how well they are predicted, as far as that was looked at."""
    metric_signatures: dict[str, str] = field(default_factory=dict)
    """What reproduces each metric's numbers."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def interior(self) -> list[float]:
        """Budgets at which both models write."""
        return [budget for budget in self.budgets if 0.0 < budget < 1.0]

    @property
    def shown_uses(self) -> list[float]:
        """The uses of the short tables."""
        return uses_shown(self.interior)

    @property
    def quality(self) -> str:
        """Name of the metric on the y axis."""
        return self.metrics[0]

    def of(self, rule: str, seed: int) -> list[CurvePoint]:
        """Return one rule's points in order of budget."""
        return sorted((p for p in self.points if (p.rule, p.seed) == (rule, seed)), key=lambda point: point.budget)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: six decimals, and null where a number does not exist."""
        plain: dict[str, Any] = plain_values(asdict(self))
        return plain


def plain_values(value: Any) -> Any:
    """Return `value` as JSON can hold it."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if math.isfinite(value) else None
    return value


def summarise(measured: Measured, statistics: SentenceStatistics) -> Curve:
    """Return the curve of these outputs.

    Args:
        measured: the outputs and what they answer.
        statistics: `wheels.metrics.sentence_statistics`.
    """
    sample = Resampled(
        measured.outputs, measured.references, measured.metrics, statistics, measured.resamples, measured.seed
    )
    quality = measured.metrics[0]
    student, teacher = (float(end_Z[0]) for end_Z in sample.ends(quality))
    warn_of_gap(student, teacher)
    curves = sample.over_use(measured.rules)
    points = [point for rule in measured.rules for point in _points(measured, sample, rule)]
    places = [(metric, use) for metric in measured.metrics for use in measured.interior]
    areas = {rule: _areas(curves, rule, quality) for rule in measured.rules}
    return Curve(
        task=measured.task,
        sentences=len(measured.references),
        mode=measured.mode,
        metrics=list(measured.metrics),
        budgets=list(measured.budgets),
        rules=list(measured.rules),
        seeds={rule: sample.seeds(rule) or [0] for rule in measured.rules},
        student=_end(measured, sample, STUDENT_END, measured.student),
        teacher=_end(measured, sample, TEACHER_END, measured.teacher),
        points=points,
        apgr={rule: {name: float(np.mean(seeds)) for name, seeds in area.items()} for rule, area in areas.items()},
        apgr_seeds=areas,
        cpt={rule: _thresholds(curves, rule, quality) for rule in measured.rules},
        at_use=[row for place in places for row in _at_use(measured, curves, *place)],
        paired=with_holm([row for place in places for row in _tests(measured, curves, *place)], measured.interior),
        adherence={rule: _adherence(measured, sample, rule) for rule in measured.rules},
        at_budget=decodes_at(measured, sample),
        apgr_paired=area_tests(measured, curves, INTERVALS["0-0.3"]),
        notes=list(measured.notes),
        signature="|".join(
            (measured.task, str(len(measured.references)), measured.student, measured.teacher, f"wheels:{__version__}")
        ),
    )


def _point(measured: Measured, sample: Resampled, key: PointKey, rule: str, seed: int) -> CurvePoint:
    """Return the point of one decode, named `rule` and `seed` (the ends belong to all rules)."""
    records = measured.outputs[key]
    spent = per_token(records)
    metrics = {metric: float(sample.quality[metric, key][0]) for metric in measured.metrics}
    quality = measured.metrics[0]
    student, teacher = (end_Z[0] for end_Z in sample.ends(quality))
    place = (measured.task, len(records), measured.student, measured.teacher, rule, f"{key.budget:g}", seed)
    return CurvePoint(
        rule=rule,
        budget=key.budget,
        use=spent["use"],
        use_p95=float(np.percentile([record.use for record in records], 95)),
        metrics=metrics,
        quality=metrics[quality],
        pgr=float(share_of_gap(metrics[quality], student, teacher)),
        passes_per_token=spent["passes_per_token"],
        positions_per_token=spent["positions_per_token"],
        seconds=sum(record.seconds for record in records),
        seed=seed,
        signature="|".join(map(str, (*place, f"wheels:{__version__}"))),
    )


def _points(measured: Measured, sample: Resampled, rule: str) -> list[CurvePoint]:
    """Return the points of `rule` at every budget that was asked for."""
    ends = {0.0: STUDENT_END, 1.0: TEACHER_END}
    return [
        _point(measured, sample, ends.get(budget, PointKey(rule, seed, budget)), rule, seed)
        for seed in sample.seeds(rule) or [0]
        for budget in measured.budgets
    ]


def _end(measured: Measured, sample: Resampled, key: PointKey, name: str) -> dict[str, Any]:
    """Return quality and cost of one model alone."""
    point = asdict(_point(measured, sample, key, key.rule, key.seed))
    return {"name": name} | {
        field: point[field]
        for field in ("metrics", "quality", "use", "passes_per_token", "positions_per_token", "seconds", "signature")
    }


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
    """Return the distance of measured use from the budgets, and the violations of strict mode."""
    keys = [PointKey(rule, seed, budget) for seed in sample.seeds(rule) for budget in measured.interior]
    errors = [abs(float(sample.use[key][0]) - key.budget) for key in keys]
    violations = None
    if measured.mode == "strict":
        violations = sum(
            over_allowance([author == TEACHER for author in record.authors], key.budget, measured.burst)
            for key in keys
            for record in measured.outputs[key]
        )
    kept = Adherence(float(np.mean(errors)) if errors else math.nan, max(errors, default=math.nan), violations)
    uses = {b: [r.use for key in keys if key.budget == b for r in measured.outputs[key]] for b in measured.interior}
    quantiles = {f"{budget:g}": np.percentile(shares, QUANTILES).tolist() for budget, shares in uses.items()}
    p95 = {budget: shares[-1] for budget, shares in quantiles.items()}
    return asdict(kept) | {"use_p95": p95, "use_quantiles": quantiles}
