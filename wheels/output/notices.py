"""Warnings that are shown once, however often they occur; and how long the rest of a run will take."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Made = TypeVar("Made")

log = logging.getLogger("wheels")
WORTH_SAYING = 60.0
"""Seconds: a shorter wait needs no word."""


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, the first time in this process."""
    log.warning(message)


@dataclass
class Pace:
    """Measures the first of many like parts of work, and says once how long the others take at their pace."""

    parts: int
    word: str
    """What one is called, in the plural."""
    made: int = 0
    seconds: float = 0.0

    @property
    def first(self) -> int:
        """How many are measured: one in twenty, and at least three."""
        return max(3, self.parts // 20)

    def add(self, seconds: float) -> None:
        """Count a part that took so long."""
        self.made, self.seconds = self.made + 1, self.seconds + seconds
        rest = self.seconds / self.made * (self.parts - self.made)
        if self.made == self.first and rest >= WORTH_SAYING:
            took = f"the first {self.made} of {self.parts} {self.word} took {in_words(self.seconds)}"
            log.info("%s: about %s for the others at this pace", took, in_words(rest))

    def timed(self, make: Callable[[], Made]) -> Callable[[], Made]:
        """Return `make`, counted as a part when it is called."""

        def counted() -> Made:
            start = time.perf_counter()
            made = make()
            self.add(time.perf_counter() - start)
            return made

        return counted


def in_words(seconds: float) -> str:
    """Return such as `12.3 s`, `2 min 05 s`, `5.6 h`."""
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
