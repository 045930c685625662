"""Every decode's quality and use under the same bootstrap draws: what all comparisons of a curve are made of.

Axes: N sentences, R resamples (row 0 is the sample itself), B points of one curve, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

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

SentenceStatistics = Callable[[str, list[str], list[str]], Statistics]
"""`wheels.metrics.sentence_statistics`: metric, hypotheses, references -> statistics."""


class Resampled:
    """Quality and use of each decode, resample by resample, on the same drawn sentences.

    Args:
        outputs: the records of each decode; both ends must be among them.
        references: one per sentence.
        metrics: names of the metrics.
        statistics: gives a metric's per-sentence sufficient statistics.
        resamples: draws.
        seed: of the draws.
    """

    def __init__(
        self,
        outputs: Mapping[PointKey, Sequence[Record]],
        references: Sequence[str],
        metrics: Sequence[str],
        statistics: SentenceStatistics,
        resamples: int,
        seed: int,
    ) -> None:
        for key, records in outputs.items():
            if len(records) != len(references):
                raise WheelsError(f"{key.file_name} holds {len(records)} outputs for {len(references)} references")
        self.references = list(references)
        self._seed = seed
        self._at_use: dict[tuple[str, str, float], Floats] = {}
        weights_RN = resample_sentences(len(references), resamples, seed)
        self.use = {
            key: measured_use([r.teacher_tokens for r in records], [r.tokens for r in records], weights_RN)
            for key, records in outputs.items()
        }
        self.passes = {
            key: measured_use([r.teacher_passes for r in records], [r.tokens for r in records], weights_RN)
            for key, records in outputs.items()
        }
        self.quality = {
            (metric, key): statistics(metric, [r.text for r in records], self.references).resampled(weights_RN)
            for metric in metrics
            for key, records in outputs.items()
        }

    def seeds(self, rule: str) -> list[int]:
        """The seeds that `rule` was decoded with."""
        return sorted({key.seed for key in self.use if key.rule == rule})

    def curve(self, rule: str, seed: int, metric: str) -> tuple[list[PointKey], Floats, Floats]:
        """Return one rule's points from the student's end to the teacher's: keys, use [R, B], metric [R, B]."""
        inner = sorted(key for key in self.use if (key.rule, key.seed) == (rule, seed))
        keys = [STUDENT_END, *inner, TEACHER_END]
        quality_RB = np.stack([self.quality[metric, key] for key in keys], axis=1)
        return keys, np.stack([self.use[key] for key in keys], axis=1), quality_RB

    def at_use(self, rule: str, metric: str, use: float) -> Floats:
        """Return the rule's metric at exactly this use, [R], mean over its seeds.

        Interpolated between the points that bracket `use` in the same resample; nan where one seed's points of the
        sample itself are too far apart for that.
        """
        place = (rule, metric, use)
        if place not in self._at_use:
            seeds = self.seeds(rule)
            values_SR = [at_use(*self.curve(rule, seed, metric)[1:], use) for seed in seeds]
            self._at_use[place] = mean_over_seeds(values_SR, self._seed)
        return self._at_use[place]

    def pgr_at_use(self, rule: str, metric: str, use: float) -> Floats:
        """Return the rule's share of the student-teacher gap at exactly this use, [R], both ends resampled too."""
        return share_of_gap(self.at_use(rule, metric, use), *self.ends(metric))

    def area(self, rule: str, metric: str, low: float, high: float) -> Floats:
        """Return the area under the share of the gap from use `low` to `high` (`apgr`), [R], mean over its seeds.

        nan in every row where the points of the sample itself lie too far apart.
        """
        areas_SR = []
        for seed in self.seeds(rule):
            _, use_RB, quality_RB = self.curve(rule, seed, metric)
            student_R, teacher_R = self.ends(metric)
            share_RB = share_of_gap(quality_RB, student_R[:, None], teacher_R[:, None])
            if math.isnan(apgr(use_RB[0], share_RB[0], low, high)):
                areas_SR.append([math.nan] * len(use_RB))
                continue
            lines = zip(use_RB, share_RB, strict=True)
            areas_SR.append([apgr(use_B, share_B, low, high, apart=1.0) for use_B, share_B in lines])
        return mean_over_seeds(areas_SR, self._seed)

    def at(self, rule: str, metric: str, budget: float) -> Floats:
        """Return the metric of the rule's decodes under `budget`, [R], mean over its seeds."""
        values_SR = [self.quality[metric, PointKey(rule, seed, budget)] for seed in self.seeds(rule)]
        return mean_over_seeds(values_SR, self._seed)

    def ends(self, metric: str) -> tuple[Floats, Floats]:
        """Return the metric of the student alone and of the teacher alone, [R] each."""
        return self.quality[metric, STUDENT_END], self.quality[metric, TEACHER_END]

    def versus(self, rule: str, baseline: str, metric: str, use: float) -> tuple[Comparison, Comparison]:
        """Return `rule - baseline` at equal use, in points of the metric and in shares of the gap."""
        points_R = self.at_use(rule, metric, use) - self.at_use(baseline, metric, use)
        shares_R = self.pgr_at_use(rule, metric, use) - self.pgr_at_use(baseline, metric, use)
        return compare(points_R), compare(shares_R)
