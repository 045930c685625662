"""A stop that was asked for: SIGTERM, as a scheduler sends it before it kills a job, or a time limit of our own.

What is kept in parts loses the part that is being made. A loop that keeps nothing between two saves ends its step and
saves first (`deferred_stop`).
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from wheels.errors import WheelsError

GRACE = 15
"""Seconds that a step may take to end; a scheduler sends SIGKILL 30 seconds after SIGTERM (Slurm's `KillWait`)."""
LONGEST = 366 * 24 * 3600
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and goes on when it is started again."""


_asked = False
_deferred = False


def _stop(signum: int, frame: FrameType | None) -> None:
    """Note the first stop where one is deferred; raise any other."""
    global _asked
    if _deferred and not _asked:
        _asked = True
        signal.setitimer(signal.ITIMER_REAL, GRACE)
        return
    raise Stopped


@contextmanager
def stopping(seconds: float | None = None) -> Iterator[None]:
    """Let SIGTERM, and the end of a time limit, raise `Stopped` while the block runs.

    Args:
        seconds: the limit; None: there is none.
    """
    ours = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM")  # not on Windows
    if not ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    global _asked
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0.0)
    try:
        yield
    finally:
        _asked = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def deferred_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether a stop was asked for; it is raised when the block ends, or after `GRACE`."""
    global _deferred
    _deferred = True
    try:
        yield lambda: _asked
    finally:
        _deferred = False
    if _asked:
        raise Stopped


def seconds_of(limit: str) -> float:
    """Return the seconds of a time limit such as `90m`, `3h30m`, `1d` or, as Slurm writes it, `3:30:00`.

    Raises:
        WheelsError: for anything else.
    """
    seconds = 0.0
    if re.fullmatch(r"(\d+(\.\d+)?[smhd])+", limit):
        seconds = sum(float(number) * UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", limit))
    elif found := re.fullmatch(r"(\d+):(\d\d):(\d\d)", limit):
        hours, minutes, rest = map(int, found.groups())
        seconds = hours * 3600.0 + minutes * 60 + rest
    if not 0 < seconds <= LONGEST:
        raise WheelsError(f"time_limit must be a time such as 90m, 3h30m or 3:30:00, got {limit!r}")
    return seconds
