"""Quality and cost of every decode under the same bootstrap draws, and curves through them.

Axes: N sentences, Z resamples (row 0 is the sample itself), P points of one curve, I seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wheels.benchmarks.core.bootstrap import (
    Comparison,
    Floats,
    Statistics,
    apgr,
    at_use,
    compare,
    mean_over_seeds,
    measured_use,
    resample_sentences,
    share_of_gap,
)
from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.errors import WheelsError
from wheels.metrics.names import Reference

SentenceStatistics = Callable[[str, list[str], list[Reference]], Statistics]
"""`wheels.metrics.sentence_statistics`: metric, hypotheses, references -> statistics."""


class Resampled:
    """Quality and cost of each decode, resample by resample, on the same drawn sentences."""

    def __init__(
        self,
        outputs: Mapping[PointKey, Sequence[Record]],
        references: Sequence[Reference],
        metrics: Sequence[str],
        statistics: SentenceStatistics,
        resamples: int,
        seed: int,
    ) -> None:
        for key, records in outputs.items():
            if len(records) != len(references):
                raise WheelsError(f"{key.file_name} holds {len(records)} outputs for {len(references)} references")
        self.references, self.seed, self.outputs = list(references), seed, outputs
        self._weights_ZN = weights_ZN = resample_sentences(len(references), resamples, seed)
        self.use, self.passes = self.per_token("teacher_tokens"), self.per_token("teacher_passes")
        self.quality = {
            (metric, key): statistics(metric, [r.text for r in records], self.references).resampled(weights_ZN)
            for metric in metrics
            for key, records in outputs.items()
        }

    def per_token(self, spent: str) -> dict[PointKey, Floats]:
        """Return what each decode spent of one thing (a field of `Record`) per generated token, [Z]."""
        return {
            key: measured_use([getattr(r, spent) for r in records], [r.tokens for r in records], self._weights_ZN)
            for key, records in self.outputs.items()
        }

    def seeds(self, rule: str) -> list[int]:
        """The seeds that `rule` was decoded with."""
        return sorted({key.seed for key in self.use if key.rule == rule})

    def mean(self, keys: Iterable[PointKey], metric: str) -> Floats:
        """Return a metric's mean over decodes that differ only in their seed, [Z]."""
        return mean_over_seeds([self.quality[metric, key] for key in keys], self.seed)

    def ends(self, metric: str) -> tuple[Floats, Floats]:
        """Return the metric of the student alone and of the teacher alone, [Z] each."""
        return self.quality[metric, STUDENT_END], self.quality[metric, TEACHER_END]

    def over_use(self, rules: Iterable[str]) -> Curves:
        """Return the curves over teacher use, one a rule, from the student's end to the teacher's."""

        def line(rule: str, seed: int) -> list[PointKey]:
            return [STUDENT_END, *sorted(key for key in self.use if (key.rule, key.seed) == (rule, seed)), TEACHER_END]

        # Without a decode between the ends, these alone are a curve of seed 0.
        return Curves(self, {rule: [line(rule, seed) for seed in self.seeds(rule) or [0]] for rule in rules}, self.use)


class Curves:
    """Quality of several systems over what they cost, resample by resample.

    Args:
        sample: the decodes.
        lines: the decodes of each system, seed by seed, in any order.
        cost: of each decode, [Z].
        at: interpolates: costs [Z, P], qualities [Z, P], a cost -> qualities [Z].
        least: share of the resamples that must reach a cost before an interval is given there.
    """

    def __init__(
        self,
        sample: Resampled,
        lines: Mapping[str, Sequence[Sequence[PointKey]]],
        cost: Mapping[PointKey, Floats],
        at: Callable[[Floats, Floats, float], Floats] = at_use,
        least: float = 1.0,
    ) -> None:
        self.sample, self.lines, self.cost, self.least = sample, lines, cost, least
        self._interpolate = at
        self._kept: dict[tuple[str, str, float], Floats] = {}

    def line(self, keys: Sequence[PointKey], metric: str) -> tuple[Floats, Floats]:
        """Return costs [Z, P] and qualities [Z, P] of some decodes."""
        quality_ZP = np.stack([self.sample.quality[metric, key] for key in keys], axis=1)
        return np.stack([self.cost[key] for key in keys], axis=1), quality_ZP

    def at(self, name: str, metric: str, cost: float) -> Floats:
        """Return a system's metric at exactly this cost, [Z], mean over its seeds.

        Interpolated in each resample; nan where the points of a seed of the sample itself do not tell.
        """
        place = (name, metric, cost)
        if place not in self._kept:
            values_IZ = [self._interpolate(*self.line(keys, metric), cost) for keys in self.lines[name]]
            self._kept[place] = mean_over_seeds(values_IZ, self.sample.seed)
        return self._kept[place]

    def share(self, name: str, metric: str, cost: float) -> Floats:
        """Return the share of the student-teacher gap at exactly this cost, [Z], both ends resampled too."""
        return share_of_gap(self.at(name, metric, cost), *self.sample.ends(metric))

    def best(self, names: Iterable[str], metric: str, cost: float) -> str | None:
        """Return the system that is best at this cost on the sample itself, of those measured there."""
        value = {name: self.at(name, metric, cost)[0] for name in names}
        return max((name for name in value if not np.isnan(value[name])), key=value.__getitem__, default=None)

    def versus(self, name: str, baseline: str, metric: str, cost: float) -> tuple[Comparison, Comparison]:
        """Return `name - baseline` at equal cost, in points of the metric and in shares of the gap."""
        points_Z = self.at(name, metric, cost) - self.at(baseline, metric, cost)
        shares_Z = self.share(name, metric, cost) - self.share(baseline, metric, cost)
        return compare(points_Z, self.least), compare(shares_Z, self.least)

    def shares(self, name: str, metric: str) -> list[tuple[Floats, Floats]]:
        """Return costs [Z, P] and shares of the gap [Z, P] of each seed."""
        student_Z, teacher_Z = self.sample.ends(metric)
        lines = [self.line(keys, metric) for keys in self.lines[name]]
        return [(cost_ZP, share_of_gap(own_ZP, student_Z[:, None], teacher_Z[:, None])) for cost_ZP, own_ZP in lines]

    def area(self, name: str, metric: str, low: float, high: float) -> Floats:
        """Return the area under the share of the gap from use `low` to `high` (`apgr`), [Z], mean over seeds.

        nan in every row where the points of the sample itself lie too far apart.
        """
        areas_IZ = []
        for use_ZP, share_ZP in self.shares(name, metric):
            if math.isnan(apgr(use_ZP[0], share_ZP[0], low, high)):
                areas_IZ.append([math.nan] * len(use_ZP))
                continue
            lines = zip(use_ZP, share_ZP, strict=True)
            areas_IZ.append([apgr(use_P, share_P, low, high, apart=1.0) for use_P, share_P in lines])
        return mean_over_seeds(areas_IZ, self.sample.seed)


def per_token(records: Sequence[Record]) -> dict[str, Any]:
    """Return the teacher's tokens (`use`), passes and positions, each per generated token."""
    tokens = max(1, sum(record.tokens for record in records))
    names = {"use": "teacher_tokens", "passes_per_token": "teacher_passes", "positions_per_token": "teacher_positions"}
    return {name: sum(getattr(record, spent) for record in records) / tokens for name, spent in names.items()}


SHOWN = 0.2
"""The budget that the diagnostics looks are taken at, or the nearest to it."""


@dataclass(frozen=True)
class Measured:
    """Everything that a curve is computed from; plain data, no model."""

    task: str
    student: str
    teacher: str
    sources: Sequence[str]
    """What was given to the models."""
    references: Sequence[Reference]
    """What they should have written."""
    metrics: Sequence[str]
    """Names of the metrics; the first is the quality."""
    budgets: Sequence[float]
    """Budgets asked for, in order."""
    rules: Sequence[str]
    """Rules asked for, in the order of the tables."""
    mode: str
    """`average`, `online` or `strict`."""
    outputs: Mapping[PointKey, Sequence[Record]]
    """Records of each decode: both ends, and every (rule, seed, budget) in between."""
    burst: int = 0
    """Tokens that the strict mode allows on top of the share."""
    resamples: int = 1000
    seed: int = 0
    notes: Sequence[str] = ()
    """What a reader must know, e.g. that fewer seeds were trained than asked for."""

    @classmethod
    def pooled(cls, runs: Sequence[Measured]) -> Measured:
        """Pool the outputs of several models of one pair: their seeds are numbered consecutively.

        A resample of seeds then draws whole models, with all that was drawn for each: states, pairs, and the thresholds
        of every rule, those without a head too. Rules that not all were measured with are left out.

        Raises:
            WheelsError: where the students or the teachers alone do not write the same.
        """
        first, outputs = runs[0], {}
        for end in (STUDENT_END, TEACHER_END):
            outputs[end] = first.outputs[end]
            if any([one.text for one in run.outputs[end]] != [one.text for one in outputs[end]] for run in runs):
                raise WheelsError(f"--also takes models of one pair, and the {end.rule} alone does not write the same")
        rules = [rule for rule in first.rules if all(rule in run.rules for run in runs)]
        for rule in rules:
            before = 0
            for run in runs:
                mine = {key: records for key, records in run.outputs.items() if key.rule == rule}
                outputs |= {PointKey(rule, before + key.seed, key.budget): records for key, records in mine.items()}
                before += len(run.seeds(rule))
        notes = [*dict.fromkeys(note for run in runs for note in run.notes), f"seeds of {len(runs)} models, pooled"]
        return replace(first, rules=rules, outputs=outputs, notes=notes)

    @property
    def interior(self) -> list[float]:
        """Budgets at which both models write."""
        return [budget for budget in self.budgets if 0.0 < budget < 1.0]

    @property
    def shown(self) -> float | None:
        """The budget of the diagnostics, the nearest to 0.2; None where only the ends were asked for."""
        return min(self.interior, key=lambda share: abs(share - SHOWN), default=None)

    def seeds(self, rule: str) -> list[int]:
        """Seeds that `rule` was decoded with between the ends."""
        return sorted({key.seed for key in self.outputs if key.rule == rule})
