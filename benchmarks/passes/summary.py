"""From records to figures over teacher passes: points, bands, comparisons at equal passes.

Axes: Z resamples (row 0 is the sample itself), P points of one curve, I seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from wheels import __version__
from wheels.benchmarks.core.bootstrap import Floats, at_use, interval, share_of_gap
from wheels.benchmarks.core.cell import PointKey, Record
from wheels.benchmarks.curve.resampled import Curves, Resampled, per_token
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


Point = Mapping[str, Any]
"""Quality and cost of one decode of the whole split: `family`, `label`, `line`, `seed` as of its `Setting`; teacher
`passes` and `positions` per generated token, and teacher `use`; `metrics`, and by metric the share of the `gap`, nan
where that is under 1 point."""


def points_of(
    settings: Sequence[Setting],
    outputs: Mapping[PointKey, Sequence[Record]],
    sample: Resampled,
    metrics: Sequence[str],
    place: Sequence[str] = (),
) -> list[Point]:
    """Return the point of every setting.

    Both ends come first among the settings; `place` is of the signature: task, student and teacher.
    """
    ends = {metric: [end_Z[0] for end_Z in sample.ends(metric)] for metric in metrics}
    task, *models = place or ("", "", "")
    points: list[Point] = []
    for setting in settings:
        records = outputs[setting.key]
        use, passes, positions = per_token(records).values()
        scores = {metric: float(sample.quality[metric, setting.key][0]) for metric in metrics}
        gap = {metric: float(share_of_gap(scores[metric], *ends[metric])) for metric in metrics}
        words = (task, len(records), *models, setting.name, setting.seed or 0, f"wheels:{__version__}")
        point = {name: getattr(setting, name) for name in ("family", "label", "line", "seed")}
        point |= {"passes": passes, "positions": positions, "use": use, "metrics": scores, "gap": gap}
        points.append(point | {"signature": "|".join(map(str, words))})
    return points


def means(points: Sequence[Point]) -> list[Point]:
    """Average the points that differ only in their seed, in the order of the first."""
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point["family"], point["label"]), []).append(point)

    def mean(values: Sequence[Any]) -> Any:
        if isinstance(values[0], Mapping):
            return {name: mean([each[name] for each in values]) for name in values[0]}
        return float(np.mean(values))

    averaged = ("passes", "positions", "use", "metrics", "gap")
    return [
        {**group[0], **{name: mean([each[name] for each in group]) for name in averaged}} for group in groups.values()
    ]


def at_cost(costs_ZP: Floats, values_ZP: Floats, cost: float) -> Floats:
    """Return each row's value for `cost`, [Z], between its bracketing points; nan below its cheapest point.

    Beyond its last point the value stays: a cost may be left unspent. Also nan in every row where the
    sample's own points lie too far apart (`wheels.benchmarks.core.bootstrap.at_use`).
    """
    return np.where(cost < costs_ZP.min(1), np.nan, at_use(costs_ZP, values_ZP, cost))


class PassCurves(Curves):
    """The curves over passes.

    A setting without a seed stands on the line of every seed.
    """

    def __init__(self, settings: Sequence[Setting], sample: Resampled) -> None:
        self.settings = [setting for setting in settings if setting.family not in ("student", "teacher")]
        self.family = {setting.line: setting.family for setting in self.settings}
        lines = {}
        for line in self.family:
            mine = [setting for setting in self.settings if setting.line == line]
            seeds: Sequence[int | None] = sorted({s.seed for s in mine if s.seed is not None}) or [None]
            lines[line] = [[each.key for each in mine if each.seed in (seed, None)] for seed in seeds]
        super().__init__(sample, lines, sample.passes, at_cost, SAID)

    def reaches(self, line: str, cost: float) -> bool:
        """Tell whether every seed of a line has a point that needs no more than this cost, on the sample itself."""
        return all(any(self.cost[key][0] <= cost for key in keys) for keys in self.lines[line])

    def envelope(self, metric: str, cost: float) -> str | None:
        """Return the line of the baseline families that is best here on the sample itself, of those measured there."""
        return self.best([line for line, family in self.family.items() if family in ENVELOPE], metric, cost)

    def bands(self, metrics: Sequence[str]) -> list[dict[str, Any]]:
        """Return the mean over seeds of each setting of a rule-driven line, with its 95% interval."""
        rows = []
        ruled = [setting for setting in self.settings if setting.family in RULED]
        for metric, (line, label) in itertools.product(metrics, dict.fromkeys((s.line, s.label) for s in ruled)):
            keys = [setting.key for setting in ruled if (setting.line, setting.label) == (line, label)]
            passes = float(np.mean([self.cost[key][0] for key in keys]))
            row = {"family": self.family[line], "line": line, "label": label, "metric": metric, "passes": passes}
            rows.append(row | interval(self.sample.mean(keys, metric)))
        return rows


def at_equal_passes(curves: PassCurves, metrics: Sequence[str], costs: Sequence[float] = COSTS) -> list[dict[str, Any]]:
    """Return every line's metrics at equal cost; nan where not measured, no entry below its cheapest point."""
    rows = []
    for line, metric, cost in itertools.product(curves.family, metrics, costs):
        if curves.reaches(line, cost):
            row = {"family": curves.family[line], "line": line, "passes": cost, "metric": metric}
            row |= interval(curves.at(line, metric, cost), least=SAID)
            rows.append(row | interval(curves.share(line, metric, cost), "gap", "gap_low", "gap_high", least=SAID))
    return rows


def against_envelope(
    curves: PassCurves, metrics: Sequence[str], costs: Sequence[float] = COSTS
) -> list[dict[str, Any]]:
    """Return the paired difference of every verified, priced and tuned line to the best baseline at equal cost.

    The baseline is the line of `ENVELOPE` with the best value on this very sample, and the same one in all resamples:
    that favours it, so the comparison errs on the safe side.
    """
    rows = []
    ours = [line for line, family in curves.family.items() if family in RULED and family not in ENVELOPE]
    for metric, cost, line in itertools.product(metrics, costs, ours):
        baseline = curves.envelope(metric, cost)
        if baseline is None or not curves.reaches(line, cost):
            continue
        points, shares = curves.versus(line, baseline, metric, cost)
        row = {"line": line, "baseline": baseline, "passes": cost, "metric": metric} | asdict(points)
        rows.append(row | {"gap_difference": shares.difference, "gap_low": shares.low, "gap_high": shares.high})
    return rows


def beyond_speculation(points: Sequence[Point], metric: str) -> dict[str, Any] | None:
    """Return lossless speculation's fewest passes, and the lossy settings that recover half of the gap with fewer."""
    lossless = [point for point in points if point["family"] == "speculative"]
    if not lossless:
        return None
    fewest = min(lossless, key=lambda point: point["passes"])
    below: list[dict[str, Any]] = [
        {"family": point["family"], "label": point["label"], "passes": point["passes"], "gap": point["gap"][metric]}
        for point in points
        if point["family"] not in LOSSLESS and point["passes"] < fewest["passes"] and point["gap"][metric] >= SAID
    ]
    below.sort(key=lambda row: row["passes"])
    return {"label": fewest["label"], "passes": fewest["passes"], "metric": metric, "least_gap": SAID, "below": below}
