"""A circuit breaker: a server that fails again and again is left alone for a while, and then tried once.

Closed, every call passes. After `failures` in a row it opens: no call passes for `cooldown` seconds. Then it is half
open: one call is a trial. If that succeeds it closes, else it opens for twice as long (Nygard 2007, *Release It!*).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class Breaker:
    """The state of one server.

    Args:
        failures: Failures in a row that open it.
        cooldown: Seconds that it stays open at first.
        longest: Seconds that it stays open at most.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        failures: int = 3,
        cooldown: float = 5.0,
        longest: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures, self.first, self.longest, self.clock = failures, cooldown, longest, clock
        self.cooldown, self.until = cooldown, 0.0
        self.count = 0
        """Failures in a row."""
        self._mutex = threading.Lock()

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        if self.count < self.failures:
            return CLOSED
        return OPEN if self.clock() < self.until else HALF_OPEN

    def succeeded(self) -> None:
        """Take note of an answer."""
        with self._mutex:
            self.count, self.cooldown = 0, self.first

    def failed(self, *, for_all: bool = False) -> None:
        """Take note of a failure; one that is about every request opens it at once."""
        with self._mutex:
            trial = self.state == HALF_OPEN
            self.count = max(self.count + 1, self.failures if for_all else 0)
            if self.count >= self.failures:
                self.cooldown = min(self.longest, 2 * self.cooldown) if trial else self.cooldown
                self.until = self.clock() + self.cooldown
