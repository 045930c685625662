"""Inputs of a curve: the records of every decode, with sources and references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.errors import WheelsError
from wheels.metrics.names import Reference

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
