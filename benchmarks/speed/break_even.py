"""Where deferral stops paying: by the cost of its student and of its calls, in tokens of the fastest teacher alone.

A token of deferral at use rho costs `c + rho k` of those tokens: c what the student alone costs, k what a call adds,
the teacher's pass over the gap and all else that belongs to it. k is the slope of the line through two measurements,
the student alone and deferral at its own use. Deferral pays where `c + rho k < 1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wheels.benchmarks.speed.summary import BatchFigures


@dataclass(frozen=True)
class BreakEven:
    """One batch size, in seconds of a token over those of the fastest teacher alone."""

    batch_size: int
    student: float
    """c, of the student alone."""
    deferral: float
    """Of deferral, as measured at `use`."""
    use: float
    """rho, the measured share of the tokens that the teacher wrote; above 0."""

    @property
    def call(self) -> float:
        """k, what a call adds."""
        return (self.deferral - self.student) / self.use

    @property
    def most_use(self) -> float | None:
        """The use up to which deferral pays, at most 1; None: the student alone costs as much as the teacher."""
        if self.student >= 1.0:
            return None
        return min(1.0, (1.0 - self.student) / self.call) if self.call > 0.0 else 1.0


def break_even(batch: BatchFigures) -> BreakEven | None:
    """Return where deferral stands at one batch size; None where it, or the student alone, was not timed."""
    found = {each.name: each for each in batch.figures}
    mine, student = found.get("deferral"), found.get("student")
    if mine is None or student is None or not mine.use:
        return None
    return BreakEven(batch.batch_size, 1.0 / student.speedup.median, 1.0 / mine.speedup.median, mine.use)


def in_words(batches: Sequence[BatchFigures]) -> str:
    """Return the rule and where the pair stands, a line each; nothing where deferral was not timed."""
    places = [each for each in map(break_even, batches) if each is not None]
    if not places:
        return ""
    rule = "deferral is faster than the fastest teacher alone where c + use x k < 1"
    units = "c: what a token of the student costs, k: what a call costs, in tokens of that teacher"
    return f"break-even: {rule} ({units})\nthis pair here: {'; '.join(map(_place, places))}"


def _place(at: BreakEven) -> str:
    """Return one batch size in words."""
    known = f"batch {at.batch_size}: c {at.student:.2f}, k {at.call:.2f}"
    if at.most_use is None:
        return f"{known}, never, for the student alone is no faster than that teacher"
    return f"{known}, {at.deferral:.2f} of its time at use {at.use:.2f}, faster up to use {at.most_use:.2f}"
