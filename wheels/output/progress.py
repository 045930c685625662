"""How far a long job is, how fast, and how long the rest will take: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

from wheels.output.notices import in_words
from wheels.output.streams import remark

EVERY = 60.0
"""Seconds between two lines: a job that is over before needs none."""


class Progress:
    """Counts what is done of a job.

    Args:
        total: How many there are.
        unit: What one is called.
        done: How many an earlier run did, which say nothing about this one's rate.
        bar: Whether there is enough to do for a bar.
    """

    def __init__(self, total: int, unit: str, *, done: int = 0, bar: bool = True) -> None:
        shown = not bar or None
        self.bar = tqdm(total=total, initial=done, unit=unit, file=sys.stderr, disable=shown, leave=False)
        self.total, self.unit, self.done, self.before = total, unit, done, done
        self.start = self.told = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def advance(self) -> None:
        """Count one more."""
        self.done += 1
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and now - self.told >= EVERY:
            self.told = now
            remark(self.line(now - self.start))

    def line(self, seconds: float) -> str:
        """Return such as `12,000 of 100,000 texts, 112 a second, 13 min 06 s left`, after seconds of this run."""
        rate = (self.done - self.before) / seconds
        left = (self.total - self.done) / rate
        return f"{self.done:,} of {self.total:,} {self.unit}s, {rate:,.3g} a second, {in_words(left)} left"
