"""CPU threads of a command: how many compute, and how they wait for each other.

Left alone, torch starts a thread for every processor of the machine, and a thread that has nothing to do spins for
milliseconds. Two such commands on one machine take each other's processors away. The command line therefore lets idle
threads sleep, computes with one thread where a model is small, and never with more than the process may use.
A library must not change its user's process, so `import wheels` does none of this.
"""

from __future__ import annotations

import functools
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wheels.models.pair import Pair

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables that say how long an idle thread of OpenMP spins; GNU's and Intel's libraries read them when they load."""
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user says how many threads torch has."""
SMALL = 10_000_000
"""Weights up to which a pass is too short to be shared: a second thread saves less than waking it costs."""
GROUP = Path("/sys/fs/cgroup/cpu.max")
"""The processor time of this process's control group: microseconds of each period, or `max`."""


def sleep_when_idle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let idle threads sleep, unless the environment says how they wait; before torch is imported."""
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def set_threads(asked: int | None, *pairs: Pair) -> None:
    """Compute with as many threads as were `asked` for.

    None: as many as the environment says, else by the size of the largest model.
    The load of the machine does not count: sums depend on the number of threads, and a run should be repeatable.
    """
    import torch

    own = _own_choice()
    if asked is not None:
        torch.set_num_threads(asked)
    elif not any(name in os.environ for name in COUNTS):
        largest = max(model.num_parameters() for pair in pairs for model in pair.models)
        torch.set_num_threads(1 if largest <= SMALL else min(own, usable_processors()))


@functools.cache
def _own_choice() -> int:
    """Return the number of threads that torch chose before anybody else did."""
    import torch

    return torch.get_num_threads()


def usable_processors() -> int:
    """Return how many processors this process may use: of its affinity, and of its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = GROUP.read_text().split()
    except (OSError, ValueError):  # another system, or an older kind of control group
        return count
    return max(1, min(count, int(quota) // int(period))) if quota.isdigit() else count
