"""Results of each round of a comparison of speed, kept as soon as the round is done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wheels.benchmarks.speed.forward_timer import Machine, Shape
from wheels.benchmarks.speed.hf_systems import Outcome


@dataclass(frozen=True)
class Timing:
    """What one system did in one round."""

    seconds: float
    outputs: list[list[int]]
    """The tokens of each text."""
    teacher_tokens: int | None
    """Tokens that the teacher wrote; None: transformers does not tell."""
    drafted: int
    accepted: int
    checked: int
    passes: list[list[Any]]
    """The shapes of the forward passes, each with how often it ran; empty: an engine that does not tell."""
    forward_seconds: float | None
    """Of `seconds` those within the models' forwards; None: not told."""

    @classmethod
    def of(cls, outcome: Outcome) -> Timing:
        """Sum up an outcome."""
        return cls(
            seconds=outcome.seconds,
            outputs=[list(tokens) for tokens in outcome.outputs],
            teacher_tokens=outcome.teacher_tokens,
            drafted=outcome.drafted,
            accepted=outcome.accepted,
            checked=outcome.checked,
            passes=[[*shape, count] for shape, count in sorted(outcome.passes.items())],
            forward_seconds=outcome.forward_seconds,
        )

    @property
    def tokens(self) -> int:
        """Tokens written."""
        return sum(map(len, self.outputs))

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    def differing(self, wanted: Timing) -> list[int]:
        """Return the rows whose tokens are not those of another system, by their place among the texts."""
        both = enumerate(zip(self.outputs, wanted.outputs, strict=True))
        return [row for row, (own, theirs) in both if own != theirs]

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
