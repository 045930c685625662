"""Shards: a file's rows in equal parts, one after the other, each written by a process of its own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from wheels.errors import WheelsError

_WRITTEN = re.compile(r"(\d+)/(\d+)", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One of the parts."""

    number: int
    """Which one, from 1."""
    count: int
    """How many there are."""

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def of(cls, text: str) -> Shard:
        """Return the shard that is written I/N.

        Raises:
            WheelsError: for anything else.
        """
        found = _WRITTEN.fullmatch(text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise WheelsError(f"shard must be I/N with I from 1 to N, such as 2/8, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def rows(self, total: int) -> range:
        """Return the numbers of its rows, of so many in all: parts differ by one row at most."""
        return range((self.number - 1) * total // self.count, self.number * total // self.count)

    def place(self, output: Path) -> Path:
        """Return the file that it is written to, beside that of all rows: `out-00002-of-00008.jsonl`."""
        return output.with_name(f"{output.stem}-{self.number:05d}-of-{self.count:05d}{output.suffix}")


def all_shards(count: int) -> list[Shard]:
    """Return the shards of a file in so many parts."""
    return [Shard(number, count) for number in range(1, count + 1)]


def check_shard(name: str, text: str) -> None:
    """Refuse what is no shard."""
    Shard.of(text)


def take_rank() -> Shard | None:
    """Return the shard of a process that `torchrun` or `accelerate launch` started; None for one that runs alone.

    Its rank is taken out of the environment: from here on the process is a run of its own, with its own folder.
    """
    world, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if not (world.isdecimal() and rank.isdecimal()) or int(world) < 2:
        return None
    del os.environ["WORLD_SIZE"]
    os.environ.pop("RANK", None)
    return Shard(int(rank) + 1, int(world))
