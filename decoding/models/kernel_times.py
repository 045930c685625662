"""Which kernel is fastest for a shape on this machine: timed once, and remembered in the user's cache folder.

Times are of one thread, in seconds of the processor: on a busy machine several threads wait for each other, and a wrong
time would be remembered. Kernels differ in the order of their sums, so in the last bit of their results: a choice that
is remembered keeps a machine's outputs the same from run to run.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from wheels.environment import processor_name
from wheels.errors import WheelsError
from wheels.files import read_object, write_json

ROUNDS = 5
"""Runs of each kernel, in turns; the best counts, for a machine is disturbed more often than it is too fast."""
SECONDS = 0.5
"""After this time no other round begins, but for the second: the first is cold."""
PASSES = "passes of "
"""What the names of times of whole models begin with (`wheels.decoding.models.auto`)."""

_known: dict[Path, dict[str, Any]] = {}


def best_times(name: str, runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the processor's seconds of each of `runs` in one thread, measured now or remembered under `name`."""
    place = _place()
    if place not in _known:
        _known[place] = _read(place)
    known = _known[place].setdefault(_machine(), {})
    if not _is_times(known.get(name), runs):
        known[name] = _measure(runs)
        with suppress(WheelsError):  # a folder that cannot be written: measured again in the next process
            write_json(place, _known[place])
    return dict(known[name])


def remembered(prefix: str) -> dict[str, dict[str, float]]:
    """Return what is remembered of this machine under names that begin with `prefix`."""
    found = _read(_place()).get(_machine(), {})
    return {name: times for name, times in found.items() if name.startswith(prefix) and _is_times(times, times)}


def _is_times(found: object, runs: Mapping[str, object]) -> bool:
    """Tell whether what was remembered is a time of each."""
    return (
        isinstance(found, dict) and found.keys() == runs.keys() and all(type(each) is float for each in found.values())
    )


def _measure(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the best of a few times of each."""
    best, threads = dict.fromkeys(runs, math.inf), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begin = time.thread_time()
        for number in range(ROUNDS):
            if number > 1 and time.thread_time() - begin > SECONDS:
                break
            for name, run in runs.items():
                start = time.thread_time()
                run()
                best[name] = min(best[name], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return best


def _place() -> Path:
    """Return the file that remembers."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(folder) / "wheels" / "kernel-times.json"


def _read(place: Path) -> dict[str, Any]:
    """Return what the file holds; nothing where there is none, or it is damaged."""
    try:
        found = read_object(place)
    except WheelsError:
        return {}
    return found if all(isinstance(each, dict) for each in found.values()) else {}


def _machine() -> str:
    """Return all that a time depends on beside the shape."""
    limits = [
        os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
    ]
    return ", ".join(
        (processor_name(), torch.__version__, torch.backends.cpu.get_cpu_capability(), *filter(None, limits))
    )
