"""Where calls go, counted by hand."""

from __future__ import annotations

import math

import pytest

from wheels.benchmarks.core.cell import Record
from wheels.benchmarks.curve.calls import (
    QUARTERS,
    TENTHS,
    overall_rate,
    quarters,
    rates_by_frequency,
    rates_by_position,
    tenth,
)

NAMES = {"s": "student", "t": "teacher"}


def record(authors: str, token_ids: tuple[int, ...] = ()) -> Record:
    """Return a record whose tokens were written by `s` or `t`."""
    calls = authors.count("t")
    by = tuple(NAMES[letter] for letter in authors)
    return Record("", len(authors), calls, calls, calls, 0.0, ("",) * len(authors), by, token_ids)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [0]), (2, [0, 5]), (3, [0, 3, 6]), (10, list(range(10))), (12, [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9])],
)
def test_a_token_is_in_the_tenth_that_it_begins_in(length: int, expected: list[int]) -> None:
    assert [tenth(place, length) for place in range(length)] == expected


def test_quarters_hold_equally_much_running_text() -> None:
    # Of 16 tokens 3, 5 and 7 stand 4 times, 1 twice, 8 and 9 once: their middles are at 2, 6, 10, 13, 14.5 and 15.5.
    texts = [[7, 3, 5, 1], [7, 3, 5, 1], [7, 3, 5, 8], [7, 3, 5, 9]]
    assert quarters(texts) == {3: 0, 5: 1, 7: 2, 1: 3, 8: 3, 9: 3}


def test_one_token_that_is_half_of_the_text_is_in_the_quarter_of_its_middle() -> None:
    # 0 to 4 of 8: the middle is at 2, where the second quarter begins; the others have middles at 4.5 to 7.5.
    assert quarters([[5, 5, 5, 5, 1, 2, 3, 4]]) == {5: 1, 1: 2, 2: 2, 3: 3, 4: 3}
    assert quarters([[9]]) == {9: 2}
    assert quarters([]) == {} == quarters([[]])


def test_rates_by_position_over_sentences_and_seeds() -> None:
    runs = [[record("ts"), record("ssssssssst")], [record("ss"), record("ssssssssss")]]
    found = rates_by_position(runs, 200, 0)
    assert [rate["name"] for rate in found] == list(TENTHS)
    # First tenth: t, s, s, s; sixth: s, s, s, s; tenth: t, s; every other: s, s.
    assert [rate["tokens"] for rate in found] == [4, 2, 2, 2, 2, 4, 2, 2, 2, 2]
    assert [rate["calls"] for rate in found] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert [rate["rate"] for rate in found] == [0.25, 0, 0, 0, 0, 0, 0, 0, 0, 0.5]
    # Drawn twice, the first sentence makes the first tenth 1 of 2; the second, 0 of 2.
    assert (found[0]["low"], found[0]["high"]) == (0.0, 0.5)
    assert overall_rate(runs) == 2 / 24


def test_rates_by_frequency_are_of_the_token_that_was_written() -> None:
    runs = [[record("tsts", (3, 3, 5, 99)), record("ts", (7, 98))]]
    found = rates_by_frequency(runs, {3: 0, 5: 1, 7: 2}, 100, 0)
    assert [rate["name"] for rate in found] == list(QUARTERS)
    assert [(rate["calls"], rate["tokens"]) for rate in found] == [(1, 2), (1, 1), (1, 1), (0, 0), (0, 2)]
    assert found[0]["rate"] == 0.5 and found[4]["rate"] == 0.0
    assert all(math.isnan(value) for value in (found[3]["rate"], found[3]["low"], found[3]["high"]))


@pytest.mark.parametrize(("authors", "rate"), [("ssss", 0.0), ("tttt", 1.0)])
def test_no_calls_and_all_calls(authors: str, rate: float) -> None:
    runs = [[record(authors, (1, 1, 1, 1))] * 2]
    assert overall_rate(runs) == rate
    first = rates_by_frequency(runs, {1: 0}, 100, 0)[0]
    assert (first["rate"], first["low"], first["high"]) == (rate, rate, rate)
    assert {found["rate"] for found in rates_by_position(runs, 100, 0) if found["tokens"]} == {rate}


def test_empty_outputs_count_for_nothing() -> None:
    runs = [[record(""), record("")]]
    assert math.isnan(overall_rate(runs))
    assert all(found["tokens"] == 0 and math.isnan(found["rate"]) for found in rates_by_position(runs, 100, 0))
    mixed = rates_by_position([[record(""), record("t")]], 100, 0)
    assert (mixed[0]["rate"], mixed[0]["low"], mixed[0]["high"]) == (1.0, 1.0, 1.0)
