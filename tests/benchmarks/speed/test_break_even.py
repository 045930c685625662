from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from wheels.benchmarks.speed.break_even import BreakEven, break_even, in_words


def test_by_hand() -> None:
    """A student's token costs 0.2 and a call 1.5 of a teacher's: 0.2 + 0.2 x 1.5 = 0.5; up to (1 - 0.2) / 1.5."""
    at = BreakEven(1, student=0.2, deferral=0.5, use=0.2)
    assert at.call == pytest.approx(1.5)
    assert at.most_use == pytest.approx(0.8 / 1.5)
    assert at.student + at.most_use * at.call == pytest.approx(1.0)


def test_the_ends() -> None:
    assert BreakEven(1, student=1.0, deferral=1.4, use=0.2).most_use is None, "the student alone is no faster"
    assert BreakEven(1, student=0.1, deferral=0.15, use=0.2).most_use == 1.0, "calls that cost next to nothing"
    assert BreakEven(1, student=0.3, deferral=0.3, use=0.2).most_use == 1.0, "or nothing"


def batch(size: int, **speedups: float) -> Any:
    uses = {"deferral": 0.2}
    figures = [SimpleNamespace(name=name, speedup=SimpleNamespace(median=value), use=uses.get(name, 0.0))
               for name, value in speedups.items()]  # fmt: skip
    return SimpleNamespace(batch_size=size, figures=figures)


def test_two_lines_say_where_the_pair_stands() -> None:
    rule, here = in_words(
        [batch(1, student=5, deferral=2), batch(8, student=2, deferral=0.8), batch(32, student=0.8, deferral=0.5)]
    ).split("\n")
    assert rule.startswith("break-even: deferral is faster than the fastest teacher alone where c + use x k < 1 (c: ")
    assert here == (
        "this pair here: batch 1: c 0.20, k 1.50, 0.50 of its time at use 0.20, faster up to use 0.53; "
        "batch 8: c 0.50, k 3.75, 1.25 of its time at use 0.20, faster up to use 0.13; "
        "batch 32: c 1.25, k 3.75, never, for the student alone is no faster than that teacher"
    )


def test_nothing_is_said_of_what_was_not_timed() -> None:
    assert break_even(batch(1, deferral=2)) is None and break_even(batch(1, student=2)) is None
    assert in_words([batch(1, student=2)]) == ""
