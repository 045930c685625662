"""What a curve is computed from: the outputs of every decode, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wheels.benchmarks.records import PointKey, Record

SHOWN = 0.2
"""The budget that the closer looks are taken at, or the nearest to it."""


@dataclass(frozen=True)
class Measured:
    """Everything that a curve is computed from; plain data, no model."""

    task: str
    """Name of the task."""
    student: str
    """Name of the student."""
    teacher: str
    """Name of the teacher."""
    sources: Sequence[str]
    """What was given to the models."""
    references: Sequence[str]
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
    """Bootstrap resamples."""
    seed: int = 0
    """Of the bootstrap."""
    notes: Sequence[str] = ()
    """What a reader must know, e.g. that fewer seeds were trained than asked for."""

    @property
    def interior(self) -> list[float]:
        """Budgets at which both models write."""
        return [budget for budget in self.budgets if 0.0 < budget < 1.0]

    @property
    def shown(self) -> float | None:
        """The budget that is looked at closely: the one nearest to 0.2; None where only the ends were asked for."""
        return min(self.interior, key=lambda share: abs(share - SHOWN), default=None)

    def seeds(self, rule: str) -> list[int]:
        """Seeds that `rule` was decoded with between the ends."""
        return sorted({key.seed for key in self.outputs if key.rule == rule})
