"""What texts cost: passes, seconds, and the teacher's tokens as a price list counts them."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from wheels.decoding.remote.prices import Prices
from wheels.decoding.sequences import Sequence
from wheels.endpoints.usage import Usage


@dataclass(frozen=True)
class Cost:
    """What some texts took."""

    student_passes: int = 0
    teacher_passes: int = 0
    """Forward passes of each model that served them, summed over the texts."""
    seconds: float = 0.0
    """Their share of the wall-clock time of these passes: what waits for other batches is not in it."""
    read: int = 0
    """Tokens that the teacher read, and had not written itself."""
    teacher_tokens: int = 0
    """Tokens that the teacher wrote."""
    alone_read: int = 0
    """Tokens that the teacher would read if it wrote all of it: the prompts."""
    tokens: int = 0
    """Tokens that were written."""

    @classmethod
    def of(cls, sequence: Sequence, last: int, first: int = 0) -> Cost:
        """Return what a text took.

        Args:
            sequence: The text.
            last: How many of its tokens were passed on.
            first: Those of them that were given.
        """
        called, by_teacher = bool(sequence.teacher_passes), sum(sequence.by_teacher)
        return cls(
            sequence.student_passes,
            sequence.teacher_passes,
            sequence.seconds,
            called * len(sequence.source) + max(0, sequence.teacher_positions - by_teacher),
            by_teacher,
            len(sequence.source) + first,
            last - first,
        )

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def dollars(self, prices: Prices) -> float:
        """Return what the teacher's part costs. The student costs nothing."""
        return prices.dollars(Usage(prompt=self.read, completion=self.teacher_tokens))

    def teacher_dollars(self, prices: Prices) -> float:
        """Return what the teacher alone would have cost for as many tokens."""
        return prices.dollars(Usage(prompt=self.alone_read, completion=self.tokens))


NOTHING = Cost()
