"""Limits that shards keep together: each begins with an equal part, and what one leaves is shared by the others.

One journal for all shards, beside the output:

    {"shards": 8, "limits": {"dollars": 5000000000000, "requests": 1000}}
    {"shard": 2, "left": {"dollars": 120000000, "requests": 3}}

The first line is of whoever came first; each other one of a shard that has ended. What a shard may spend follows from
the journal alone: its part, and an equal part of what each shard left that ended before it. So at every moment the
shards may spend exactly the limits together, whoever is killed when. Money is in picodollars.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from filelock import FileLock

from wheels.errors import WheelsError
from wheels.runs import append_line, checked, checked_object, mend, whole_lines

Amounts = dict[str, int]
"""`dollars` (picodollars), `requests`, `tokens`: those of them that are limited."""


def part_of(whole: int, number: int, count: int) -> int:
    """Return the part of a whole number that comes to the `number`-th of so many, from 1 on; all parts add up to it."""
    return number * whole // count - (number - 1) * whole // count


class Lease:
    """What one shard may spend.

    Args:
        path: The journal; a lock stands beside it.
        number: Of the shard, from 1 on.
        count: Of shards.
        limits: What all of them may spend.

    Raises:
        WheelsError: for a journal of other limits or shards, or one that cannot be read.
    """

    def __init__(self, path: str | Path, number: int, count: int, limits: Mapping[str, int]) -> None:
        self.path, self.number, self.count, self.limits = Path(path), number, count, dict(limits)
        self._mutex, self._known, self._read = threading.Lock(), -1, (Amounts(), False)
        begin = {"shards": count, "limits": self.limits}
        with self._locked():
            lines = mend(self.path) if self.path.exists() else []
            if not lines:
                append_line(self.path, checked(begin), sync=True)
            elif (found := self._object(lines[0], 1)) != begin:
                raise WheelsError(
                    f"{path} is the account of {found.get('shards')} shards under the limits {found.get('limits')}, "
                    f"got {count} under {self.limits}; give the same, or remove it to begin a new account"
                )

    def held(self) -> Amounts:
        """Return what this shard may spend in all, by what is known now; less than nothing is left of what it left."""
        return self._state()[0]

    @property
    def has_left(self) -> bool:
        """Whether this shard has ended, and left what it did not spend."""
        return self._state()[1]

    def leave(self, spent: Mapping[str, int]) -> None:
        """Give what was not spent to the shards that have not ended; what was left before stays so."""
        with self._locked():
            if not self.has_left:
                left = {name: max(0, most - spent[name]) for name, most in self.held().items()}
                append_line(self.path, checked({"shard": self.number, "left": left}), sync=True)

    def _locked(self) -> FileLock:
        return FileLock(f"{self.path}.lock")

    def _state(self) -> tuple[Amounts, bool]:
        """Return what this shard holds, and whether it has ended; the journal is read where it has grown."""
        with self._mutex:
            size = self.path.stat().st_size
            if size != self._known:
                self._read, self._known = self._replayed(), size
            return self._read

    def _replayed(self) -> tuple[Amounts, bool]:
        """Return what this shard holds by the journal."""
        shards = range(1, self.count + 1)
        held = {n: {name: part_of(most, n, self.count) for name, most in self.limits.items()} for n in shards}
        ended: set[int] = set()
        for line, text in enumerate(whole_lines(self.path)[1:], 2):
            found = self._object(text, line)
            leaver, left = found.get("shard"), found.get("left")
            if leaver not in held or leaver in ended or not self._is_amounts(left):
                raise WheelsError(f"{self.path}:{line}: no line of an account of {self.count} shards; remove the file")
            ended.add(leaver)
            others = [number for number in shards if number not in ended]
            for name, amount in left.items():
                held[leaver][name] -= amount
                for place, other in enumerate(others, 1):
                    held[other][name] += part_of(amount, place, len(others))
        return held[self.number], self.number in ended

    def _is_amounts(self, value: Any) -> TypeGuard[Amounts]:
        """Whether a value holds an amount of all that is limited."""
        return isinstance(value, dict) and value.keys() == self.limits.keys() and all(map(_is_count, value.values()))

    def _object(self, text: bytes, line: int) -> dict[str, Any]:
        return checked_object(text, f"{self.path}:{line}", "remove it to begin a new account")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
