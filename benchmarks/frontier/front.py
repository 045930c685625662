"""Quality and every cost of each way, resample by resample; the line of students alone; the cheapest way that holds.

The costs, each over generated tokens:
- `parameters`: `(student passes * P_student + teacher passes * P_teacher) / (tokens * P_teacher)`, with the passes that
  the decodes counted. A pass reads all weights of its model once; 1 is the teacher that writes alone.
- `tokens`: the share of the tokens that the teacher wrote: what is paid for where the student runs at home.
- `seconds N`: measured seconds of a token at batch size N.

Axes: Z resamples (row 0 is the sample itself), P points of a line, I training seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from wheels.benchmarks.core.bootstrap import Floats, mean_over_seeds
from wheels.benchmarks.core.cell import PointKey
from wheels.benchmarks.curve.resampled import Resampled
from wheels.benchmarks.frontier.ways import ALONE, Way

PARAMETERS, TOKENS = "parameters", "tokens"


def seconds_name(batch_size: int) -> str:
    """Return the name of the cost in seconds at a batch size."""
    return f"seconds {batch_size}"


def line_at(costs_ZP: Floats, values_ZP: Floats, at_Z: Floats) -> Floats:
    """Return the best quality for a cost that some points and mixtures of two of them reach, [Z]; nan below all.

    The upper concave envelope of the points, resample by resample: a share of the texts goes to one of two systems, at
    random, and costs and qualities are taken to mix alike. A cost may be left unspent.

    Args:
        costs_ZP: of the points.
        values_ZP: their qualities.
        at_Z: the cost that is asked for.
    """
    at_Z1 = at_Z[:, None]
    best_Z = np.where(costs_ZP <= at_Z1, values_ZP, -np.inf).max(1)
    for one, other in itertools.permutations(range(costs_ZP.shape[1]), 2):
        low_Z, high_Z = costs_ZP[:, one], costs_ZP[:, other]
        inside_Z = (low_Z <= at_Z) & (at_Z < high_Z)
        share_Z = (at_Z - low_Z) / np.where(inside_Z, high_Z - low_Z, 1.0)
        mixed_Z = values_ZP[:, one] + share_Z * (values_ZP[:, other] - values_ZP[:, one])
        best_Z = np.where(inside_Z, np.maximum(best_Z, mixed_Z), best_Z)
    return np.where(np.isfinite(best_Z), best_Z, np.nan)


class Front:
    """What was measured of some ways on the same rows.

    Args:
        sizes: the size of each student, as a share of the teacher's.
        ways: all of them; the models alone among them.
        sample: quality and passes of their decodes.
        seconds: seconds a token of each way that was timed, round by round, by batch size.
    """

    def __init__(
        self,
        sizes: Mapping[str, float],
        ways: Sequence[Way],
        sample: Resampled,
        seconds: Mapping[int, Mapping[Way, Sequence[float]]],
    ) -> None:
        self.sizes, self.ways, self.sample, self.seconds = sizes, list(ways), sample, dict(seconds)
        self._passes = sample.per_token("student_passes")

    @property
    def costs(self) -> list[str]:
        """The names of all costs."""
        return [PARAMETERS, TOKENS, *map(seconds_name, self.seconds)]

    @property
    def alone(self) -> list[Way]:
        """The models alone."""
        return [way for way in self.ways if way.method == ALONE]

    @property
    def teacher(self) -> Way:
        """The teacher alone."""
        return next(way for way in self.ways if not way.student)

    def quality(self, way: Way, metric: str) -> Floats:
        """Return a metric of a way, [Z], mean over its seeds."""
        return self.sample.mean(way.keys, metric)

    def cost(self, way: Way, name: str) -> Floats:
        """Return a cost of a way, [Z], mean over its seeds; nan where it was not timed."""
        if name == PARAMETERS:
            return self._mean({key: self._parameters(way, key) for key in way.keys})
        if name == TOKENS:
            return self._mean({key: self.sample.use[key] for key in way.keys})
        batch = next(size for size in self.seconds if seconds_name(size) == name)
        return self._seconds(self.seconds[batch].get(way, ()))

    def _mean(self, cost: Mapping[PointKey, Floats]) -> Floats:
        return mean_over_seeds(list(cost.values()), self.sample.seed)

    def _parameters(self, way: Way, key: PointKey) -> Floats:
        return self._passes[key] * self.sizes.get(way.student, 0.0) + self.sample.passes[key]

    def _seconds(self, rounds: Sequence[float]) -> Floats:
        """Return the median over rounds, [Z]; each resample draws the rounds anew, the same ones for every way."""
        count = len(next(iter(self.sample.use.values())))
        if not rounds:
            return np.full(count, np.nan)
        drawn = np.random.default_rng([self.sample.seed, 2]).integers(len(rounds), size=(count, len(rounds)))
        drawn[0] = np.arange(len(rounds))
        return np.asarray(np.median(np.asarray(rounds)[drawn], axis=1))

    def line(self, metric: str, cost: str) -> tuple[Floats, Floats]:
        """Return costs [Z, P] and qualities [Z, P] of the models alone."""
        costs = [self.cost(way, cost) for way in self.alone]
        return np.stack(costs, axis=1), np.stack([self.quality(way, metric) for way in self.alone], axis=1)

    def above_line(self, way: Way, metric: str, cost: str) -> Floats:
        """Return a way's quality minus that of the models alone at its own cost, in the same resample, [Z]."""
        return self.quality(way, metric) - line_at(*self.line(metric, cost), self.cost(way, cost))

    def holding(self, way: Way, metric: str, floor_Z: Floats) -> float:
        """Return the share of the resamples in which a way is at least as good as a floor in the same resample."""
        return float(np.mean(self.quality(way, metric)[1:] >= floor_Z[1:] - 1e-9))

    def line_cost(self, metric: str, cost: str, floor_Z: Floats, confidence: float) -> float:
        """Return the least cost for which the line of models alone holds a floor; nan where even its end does not.

        The costs are those of the sample itself. To a thousandth of the line's width.
        """
        costs_ZP, values_ZP = self.line(metric, cost)
        costs_ZP = np.broadcast_to(costs_ZP[:1], costs_ZP.shape)
        grid = np.linspace(costs_ZP[0].min(), costs_ZP[0].max(), 1001)
        low, high = 0, len(grid)
        while low < high:  # what it costs to hold a floor: all that costs more holds it too
            middle = (low + high) // 2
            value_Z = line_at(costs_ZP, values_ZP, np.full(len(costs_ZP), grid[middle]))
            held = np.mean(value_Z[1:] >= floor_Z[1:] - 1e-9) >= confidence
            low, high = (low, middle) if held else (middle + 1, high)
        return float(grid[low]) if low < len(grid) else np.nan

    def cheapest(self, ways: Sequence[Way], cost: str) -> Way | None:
        """Return the way of the least cost on the sample itself; of equal ones that which reads fewest parameters."""
        spent = {way: (self.cost(way, cost)[0], self.cost(way, PARAMETERS)[0]) for way in ways}
        return min((way for way in ways if not np.isnan(spent[way][0])), key=spent.__getitem__, default=None)
