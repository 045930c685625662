"""From the outputs of every setting to what is said of them: points, bands, equal passes, what speculation lacks.

Axes: R resamples (row 0 is the sample itself), B points of one curve, S seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wheels import __version__
from wheels.benchmarks.core.bootstrap import Comparison, Floats, at_use, compare, mean_over_seeds, share_of_gap
from wheels.benchmarks.core.cell import PointKey, Record
from wheels.benchmarks.curve.resampled import Resampled
from wheels.benchmarks.passes.settings import RULED, Setting

COSTS = (0.1, 0.2, 0.3, 0.4)
"""Teacher passes per generated token at which the curves are compared."""
ENVELOPE = ("deferral", "bild", "cascade", "take-back", "lossy", "speculative")
"""The families whose best is the baseline of the verified and priced ones; lossless speculation where it is cheap
enough."""
LOSSLESS = ("student", "teacher", "speculative", "lookup")
"""The families that are not asked how much of the gap they recover: both ends, and those that lose nothing."""
SAID = 0.5
"""Share of the gap from which a lossy setting is held against lossless speculation, and share of the resamples that
must reach a cost before an interval is given there."""


@dataclass(frozen=True)
class PassPoint:
    """What one decode of the whole split bought."""

    family: str
    label: str
    line: str
    """The curve that it lies on."""
    seed: int | None
    """The trained head; None: none was read."""
    passes: float
    """Teacher passes per generated token."""
    positions: float
    """Positions of the output that the teacher read, per generated token."""
    use: float
    """Share of the tokens that the teacher wrote."""
    metrics: dict[str, float]
    """Scores."""
    gap: dict[str, float]
    """The share of the gap between student and teacher, by metric; nan where the gap is under 1 point."""
    signature: str = ""
    """`task|n|student|teacher|family, setting|seed|wheels:x.y`."""


def points_of(
    settings: Sequence[Setting],
    outputs: Mapping[PointKey, Sequence[Record]],
    sample: Resampled,
    metrics: Sequence[str],
    place: Sequence[str] = (),
) -> list[PassPoint]:
    """Return the point of every setting.

    Args:
        settings: both ends first.
        outputs: the records of each.
        sample: their scores.
        metrics: names.
        place: of the signature: task, student and teacher.
    """
    points = []
    for setting in settings:
        records = outputs[setting.key]
        tokens = max(sum(record.tokens for record in records), 1)
        found = {metric: float(sample.quality[metric, setting.key][0]) for metric in metrics}
        ends = {metric: [end_R[0] for end_R in sample.ends(metric)] for metric in metrics}
        task, *models = place or ("", "", "")
        words = (task, len(records), *models, setting.name, setting.seed or 0, f"wheels:{__version__}")
        points.append(
            PassPoint(
                family=setting.family,
                label=setting.label,
                line=setting.line,
                seed=setting.seed,
                passes=sum(record.teacher_passes for record in records) / tokens,
                positions=sum(record.teacher_positions for record in records) / tokens,
                use=sum(record.teacher_tokens for record in records) / tokens,
                metrics=found,
                gap={metric: float(share_of_gap(found[metric], *ends[metric])) for metric in metrics},
                signature="|".join(map(str, words)),
            )
        )
    return points


def means(points: Sequence[PassPoint]) -> list[PassPoint]:
    """Return the points with those that differ only in their seed averaged, in the order of their first."""
    groups: dict[tuple[str, str], list[PassPoint]] = {}
    for point in points:
        groups.setdefault((point.family, point.label), []).append(point)
    found = []
    for (family, label), group in groups.items():
        passes, positions, use = (
            float(np.mean([getattr(each, name) for each in group])) for name in ("passes", "positions", "use")
        )
        metrics, gap = (
            {name: float(np.mean([values[name] for values in side])) for name in side[0]}
            for side in ([each.metrics for each in group], [each.gap for each in group])
        )
        found.append(PassPoint(family, label, group[0].line, None, passes, positions, use, metrics, gap))
    return found


def at_cost(costs_RB: Floats, values_RB: Floats, cost: float) -> Floats:
    """Return each row's value for `cost`, [R]: between its bracketing points; nan where it cannot do with so little.

    Beyond its last point that one's value stands: nobody must spend all that he may. nan in every row, too, where the
    sample's own points lie too far apart (`wheels.benchmarks.core.bootstrap.at_use`).
    """
    return np.where(cost < costs_RB.min(1), np.nan, at_use(costs_RB, values_RB, cost))


def reached(value_R: Floats) -> Comparison | None:
    """Return a value with the interval of those resamples that reach its cost; None where itself does not.

    Where fewer than half of the resamples do, it stands without an interval.
    """
    if np.isnan(value_R[0]):
        return None
    there_R = ~np.isnan(value_R)
    return compare(value_R[there_R] if there_R[1:].mean() >= SAID else value_R)


class PassCurves:
    """The curves over passes, resample by resample.

    Args:
        settings: what was decoded.
        sample: how well, and at what cost.
        seed: of the bootstrap over trained heads.
    """

    def __init__(self, settings: Sequence[Setting], sample: Resampled, seed: int = 0) -> None:
        self.sample, self.seed = sample, seed
        self.settings = [setting for setting in settings if setting.family not in ("student", "teacher")]
        self.family = {setting.line: setting.family for setting in self.settings}
        self._kept: dict[tuple[str, str, float], Floats] = {}

    def seeds(self, settings: Sequence[Setting]) -> Sequence[int | None]:
        """Return the trained seeds among some settings; None alone where nothing trained is read."""
        return sorted({setting.seed for setting in settings if setting.seed is not None}) or [None]

    def at(self, line: str, metric: str, cost: float) -> Floats:
        """Return a line's metric for this cost, [R], mean over its seeds; nan where one of them needs more."""
        place = (line, metric, cost)
        if place not in self._kept:
            settings = [setting for setting in self.settings if setting.line == line]
            values_SR = []
            for seed in self.seeds(settings):
                keys = [setting.key for setting in settings if setting.seed in (seed, None)]
                costs_RB = np.stack([self.sample.passes[key] for key in keys], axis=1)
                quality_RB = np.stack([self.sample.quality[metric, key] for key in keys], axis=1)
                values_SR.append(at_cost(costs_RB, quality_RB, cost))
            self._kept[place] = mean_over_seeds(values_SR, self.seed)
        return self._kept[place]

    def reaches(self, line: str, cost: float) -> bool:
        """Tell whether every seed of a line has a point that needs no more than this cost, on the sample itself."""
        settings = [setting for setting in self.settings if setting.line == line]
        return all(
            any(self.sample.passes[each.key][0] <= cost for each in settings if each.seed in (seed, None))
            for seed in self.seeds(settings)
        )

    def share(self, line: str, metric: str, cost: float) -> Floats:
        """Return the same as a share of the gap, both ends resampled too."""
        return share_of_gap(self.at(line, metric, cost), *self.sample.ends(metric))

    def envelope(self, metric: str, cost: float) -> str | None:
        """Return the line of the baseline families that is best here on the sample itself, of those measured there."""
        value = {line: self.at(line, metric, cost)[0] for line, family in self.family.items() if family in ENVELOPE}
        there = {line: quality for line, quality in value.items() if not np.isnan(quality)}
        return max(there, key=there.__getitem__) if there else None

    def bands(self, metrics: Sequence[str]) -> list[dict[str, Any]]:
        """Return the mean over seeds of each setting of a rule-driven line, with its 95% interval."""
        rows = []
        ruled = [setting for setting in self.settings if setting.family in RULED]
        for metric, (line, label) in itertools.product(metrics, dict.fromkeys((s.line, s.label) for s in ruled)):
            mine = [setting for setting in ruled if (setting.line, setting.label) == (line, label)]
            value = compare(mean_over_seeds([self.sample.quality[metric, each.key] for each in mine], self.seed))
            passes = float(np.mean([self.sample.passes[each.key][0] for each in mine]))
            row = {"family": mine[0].family, "line": line, "label": label, "metric": metric, "passes": passes}
            rows.append(row | {"value": value.difference, "low": value.low, "high": value.high})
        return rows


def at_equal_passes(lines: PassCurves, metrics: Sequence[str], costs: Sequence[float] = COSTS) -> list[dict[str, Any]]:
    """Return every line's metrics at equal cost; nan where it was not measured, no entry where it needs more."""
    rows = []
    for line, metric, cost in itertools.product(lines.family, metrics, costs):
        if not lines.reaches(line, cost):
            continue
        value, share = reached(lines.at(line, metric, cost)), reached(lines.share(line, metric, cost))
        row = {"family": lines.family[line], "line": line, "passes": cost, "metric": metric}
        rows.append(row | _named(value, ("value", "low", "high")) | _named(share, ("gap", "gap_low", "gap_high")))
    return rows


def _named(value: Comparison | None, names: Sequence[str]) -> dict[str, float]:
    """Return a value and its interval under three names; nan for none."""
    shown = (np.nan,) * 3 if value is None else (value.difference, value.low, value.high)
    return dict(zip(names, shown, strict=True))


def against_envelope(lines: PassCurves, metrics: Sequence[str], costs: Sequence[float] = COSTS) -> list[dict[str, Any]]:
    """Return the paired difference of every verified, priced and tuned line to the best baseline at equal cost.

    The baseline is the line of `ENVELOPE` with the best value on this very sample, and the same one in all resamples:
    that favours it, so the comparison errs on the safe side.
    """
    rows = []
    ours = [line for line, family in lines.family.items() if family in RULED and family not in ENVELOPE]
    for metric, cost, line in itertools.product(metrics, costs, ours):
        baseline = lines.envelope(metric, cost)
        if baseline is None:
            continue
        if not lines.reaches(line, cost):
            continue
        points = reached(lines.at(line, metric, cost) - lines.at(baseline, metric, cost))
        shares = reached(lines.share(line, metric, cost) - lines.share(baseline, metric, cost))
        row = {"line": line, "baseline": baseline, "passes": cost, "metric": metric}
        row |= asdict(points or Comparison(*(np.nan,) * 4))
        rows.append(row | _named(shares, ("gap_difference", "gap_low", "gap_high")))
    return rows


def beyond_speculation(points: Sequence[PassPoint], metric: str) -> dict[str, Any] | None:
    """Return lossless speculation's fewest passes, and the lossy settings that recover half of the gap with fewer.

    Args:
        points: with their seeds averaged.
        metric: whose gap is meant.
    """
    lossless = [point for point in points if point.family == "speculative"]
    if not lossless:
        return None
    fewest = min(lossless, key=lambda point: point.passes)
    below: list[dict[str, Any]] = [
        {"family": point.family, "label": point.label, "passes": point.passes, "gap": point.gap[metric]}
        for point in points
        if point.family not in LOSSLESS and point.passes < fewest.passes and point.gap[metric] >= SAID
    ]
    below.sort(key=lambda row: row["passes"])
    return {"label": fewest.label, "passes": fewest.passes, "metric": metric, "least_gap": SAID, "below": below}
