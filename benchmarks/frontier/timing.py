"""Measured seconds of every way: rounds in which each runs once, in an order that is rotated from round to round."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wheels.benchmarks.frontier.config import WaysConfig
from wheels.benchmarks.frontier.students import Student
from wheels.benchmarks.frontier.ways import Way, method_of, writer_of
from wheels.benchmarks.speed.forward_timer import wait_for
from wheels.benchmarks.speed.limits import rotated
from wheels.benchmarks.speed.run import code_digest
from wheels.config.parsing import versions
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode
from wheels.environment import processor_name
from wheels.runs import cached

Rounds = list[dict[str, Any]]
"""Of each round `load`, the machine's load average, and `seconds`, those of a token by the name of the way."""


def time_ways(
    config: WaysConfig, students: Sequence[Student], ways: Sequence[Way], sources: Sequence[str], folder: Path
) -> dict[int, Rounds]:
    """Return the rounds at each batch size, those kept in `folder` as they are; of a rule its first head is timed."""
    sources = sources[: config.time_rows]
    made_from = {
        "ways": {way.name: _facts(config, writer_of(students, way), way) for way in ways},
        "sources": list(sources),
        "max_new_tokens": config.max_new_tokens,
        "code": code_digest(),
        "machine": [versions(), processor_name(), config.device, config.dtype, torch.get_num_threads()],
    }
    runs = len(config.time_batches) * (config.rounds + 1) * len(ways)
    with tqdm(total=runs, desc="timing", unit="run", file=sys.stderr, disable=not runs or None) as bar:
        seconds = partial(_seconds, config, students, sources)

        def make(batch_size: int, number: int) -> dict[str, Any]:
            load = os.getloadavg()[0]
            return {"load": load, "seconds": _round(seconds, ways, batch_size, number, bar.update)}

        return {
            size: [
                cached(folder / f"batch-{size}-round-{number}.json", made_from, partial(make, size, number))
                for number in range(config.rounds)
            ]
            for size in config.time_batches
        }


def _facts(config: WaysConfig, student: Student, way: Way) -> list[Any]:
    """Return what a way's seconds depend on beside code and machine."""
    rule = method_of(config, student, way, way.seeds[0]).rule
    return [student.digest, getattr(rule, "threshold", None), config.tolerance]


def _round(
    seconds: Callable[[Way, int], float],
    ways: Sequence[Way],
    batch_size: int,
    number: int,
    progress: Callable[[int], object],
) -> dict[str, float]:
    """Return the seconds a token of each way; before the first round each runs once untimed."""
    for way in ways if number == 0 else ():
        seconds(way, batch_size)
        progress(1)
    by_name, found = {way.name: way for way in ways}, {}
    for name in rotated(list(by_name), number):
        found[name] = seconds(by_name[name], batch_size)
        progress(1)
    return found


def _seconds(
    config: WaysConfig, students: Sequence[Student], sources: Sequence[str], way: Way, batch_size: int
) -> float:
    """Decode all sources in one way, and return the seconds of a token."""
    student, params = writer_of(students, way), DecodeParams(max_new_tokens=config.max_new_tokens)
    method, pair = method_of(config, student, way, way.seeds[0]), student.artefact.pair
    wait_for(pair.device)
    start = time.perf_counter()
    traces = decode(pair, sources, method, params, batch_size=batch_size)
    wait_for(pair.device)
    return (time.perf_counter() - start) / max(1, sum(trace.tokens for trace in traces))


def of_ways(rounds: dict[int, Rounds], ways: Sequence[Way]) -> dict[int, dict[Way, list[float]]]:
    """Return the seconds a token of each way, round by round, by batch size."""
    return {
        size: {way: [each["seconds"][way.name] for each in timed] for way in ways} for size, timed in rounds.items()
    }
