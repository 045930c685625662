"""Results of each round of a comparison of speed, kept as soon as the round is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wheels.benchmarks.speed.forward_timer import Machine, Shape
from wheels.benchmarks.speed.hf_systems import Outcome, Tokens

SHOWN = 5
"""Rows that are named where outputs differ."""


@dataclass(frozen=True)
class Timing:
    """What one system did in one round."""

    seconds: float
    tokens: int
    teacher_tokens: int | None
    """Tokens that the teacher wrote; None: transformers does not tell."""
    drafted: int
    accepted: int
    checked: int
    differing: int | None
    """Outputs that are not those they must repeat; None: it may write something else."""
    different: list[int]
    """The first of these rows, by their place among the texts."""
    passes: list[list[Any]]
    """The shapes of the forward passes, each with how often it ran."""
    forward_seconds: float | None
    """Of `seconds` those within the models' forwards; None: not told."""

    @classmethod
    def of(cls, outcome: Outcome, wanted: Sequence[Tokens] | None) -> Timing:
        """Sum up an outcome, held against the outputs that it must repeat."""
        different = None
        if wanted is not None:
            both = enumerate(zip(outcome.outputs, wanted, strict=True))
            different = [row for row, (own, theirs) in both if own != theirs]
        return cls(
            seconds=outcome.seconds,
            tokens=outcome.tokens,
            teacher_tokens=outcome.teacher_tokens,
            drafted=outcome.drafted,
            accepted=outcome.accepted,
            checked=outcome.checked,
            differing=None if different is None else len(different),
            different=(different or [])[:SHOWN],
            passes=[[*shape, count] for shape, count in sorted(outcome.passes.items())],
            forward_seconds=outcome.forward_seconds,
        )

    @property
    def shapes(self) -> Counter[Shape]:
        """The forward passes."""
        return Counter({Shape(*shape): count for *shape, count in self.passes})


@dataclass(frozen=True)
class Round:
    """One round: every system once."""

    order: list[str]
    """Who ran after whom."""
    load_average: list[float]
    """Of the machine, over 1, 5 and 15 minutes, when the round began."""
    timings: dict[str, Timing]
    machine: Machine
    """What the machine could do just then."""
    forwards: list[list[Any]]
    """Seconds of bare forward passes, timed right after the systems: shapes, each with its seconds."""

    @property
    def seconds(self) -> dict[Shape, float]:
        """The seconds of the bare forward passes."""
        return {Shape(*shape): float(each) for *shape, each in self.forwards}


def round_file(folder: Path, batch_size: int, number: int) -> Path:
    """Return where a round is kept."""
    return folder / "rounds" / f"batch-{batch_size}-round-{number}.json"


def round_of(content: dict[str, Any]) -> Round:
    """Return the round that was written as `asdict` gives it."""
    timings = {name: Timing(**each) for name, each in content["timings"].items()}
    return Round(**content | {"timings": timings, "machine": Machine(**content["machine"])})
