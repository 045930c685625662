"""Which model runs next, and for which rows. No tensors here.

Rows that call wait while the others go on; one teacher pass then serves them all. To keep every pass full, B rows a
pass need more than B texts in flight: with `B + group - 1` texts, either `group` of them wait or B can run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wheels.decoding.methods.choices import SCHEDULES
from wheels.errors import check_choice, check_whole


@dataclass(frozen=True)
class Schedule:
    """When the teacher runs.

    Raises:
        WheelsError: for an unknown kind, or a number below 1.
    """

    kind: str = "grouped"
    """`grouped`, or `lockstep`: the teacher runs in every step in which some row calls, for comparison."""
    group: int | None = None
    """Rows that must wait before the teacher runs for them; None: as measured (`wheels.decoding.models.costs`)."""
    patience: int = 64
    """Student passes that a row waits at most."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_choice("schedule", self.kind, SCHEDULES)
        for name in ("group", "patience"):
            if (value := getattr(self, name)) is not None:
                check_whole(name, value, 1)

    def in_flight(self, batch_size: int, group: int) -> int:
        """Return how many texts are held at a time."""
        return batch_size if self.kind == "lockstep" else batch_size + min(group, batch_size) - 1

    def next(
        self, running: Sequence[int], calling: Sequence[int], waited: int, batch_size: int, group: int
    ) -> tuple[str, list[int]]:
        """Return which model runs next, `student` or `teacher`, and for which rows.

        Args:
            running: Rows whose next token is the student's, the oldest first.
            calling: Rows that wait for the teacher, the longest wait first.
            waited: Student passes since the first of them began to wait.
            batch_size: Rows of a pass at most.
            group: Rows that are worth a teacher pass.
        """
        enough = 1 if self.kind == "lockstep" else min(group, batch_size)
        if calling and (len(calling) >= enough or not running or waited >= self.patience):
            return "teacher", list(calling[:batch_size])
        return "student", list(running[:batch_size])
