"""The search on a world of two functions: what a student and a teacher write after a prefix."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence

import pytest

from wheels.benchmarks.ceiling.call_sets import Calls, Text
from wheels.benchmarks.ceiling.search import AT_ONCE, RowSearch, search

LENGTH = 7


def chosen(model: str, row: int, tokens: Sequence[int]) -> int:
    """Return a token in [0, 3) that depends on all that stands before it."""
    return zlib.crc32(f"{model} {row} {tokens}".encode()) % 3


def tokens_of(row: int, calls: Calls) -> list[int]:
    tokens: list[int] = []
    for position in range(LENGTH):
        tokens.append(chosen("teacher" if position in calls else "student", row, tokens))
    return tokens


def write(wanted: Sequence[tuple[int, Calls]]) -> list[Text]:
    texts = []
    for row, calls in wanted:
        tokens = tokens_of(row, calls)
        after = range(max(calls, default=-1) + 1, LENGTH)
        others = tuple(place for place in after if chosen("teacher", row, tokens[:place]) != tokens[place])
        texts.append(Text(calls, LENGTH, "".join(map(str, tokens)), float(zlib.crc32(bytes(tokens)) % 100), others))
    return texts


def every_set() -> list[Calls]:
    sets = itertools.chain.from_iterable(itertools.combinations(range(LENGTH), count) for count in range(LENGTH + 1))
    return list(sets)


def searched(starts: Sequence[Calls] = (), most: int = 10_000, row: int = 0) -> RowSearch:
    one = RowSearch(starts, most)
    search({row: one}, write, lambda count: None)
    return one


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("starts", [(), ((0, 3), (1,))])
def test_a_closed_row_has_every_text_that_calls_can_make_once(row: int, starts: Sequence[Calls]) -> None:
    effective = [tuple(p for p in calls if changes(row, calls, p)) for calls in every_set()]
    one = searched([calls for calls in starts if calls in effective], row=row)
    by_text = {"".join(map(str, tokens_of(row, calls))): len(calls) for calls in sorted(every_set(), key=len)[::-1]}
    assert one.closed
    assert {text.text: len(text.calls) for text in one.texts} == by_text
    assert len(one.texts) == len(by_text)
    assert len(by_text) < len(every_set()), "some calls must change nothing"


def changes(row: int, calls: Calls, position: int) -> bool:
    tokens = tokens_of(row, calls)
    return tokens[position] != chosen("student", row, tokens[:position])


def test_no_more_texts_are_tried_than_allowed_and_the_row_stays_open() -> None:
    one, whole = searched(most=10), searched()
    assert len(one.texts) == 10 < len(whole.texts) and not one.closed
    assert {text.text for text in one.texts} < {text.text for text in whole.texts}
    assert searched(most=len(whole.texts)).closed


def test_a_start_is_tried_with_its_first_calls_alone_too() -> None:
    one = RowSearch([(2, 4)], 3)
    assert one.propose() == [(), (2,), (2, 4)]


def test_the_best_texts_of_each_number_of_calls_grow_first() -> None:
    one = RowSearch([], 1000)
    assert one.propose() == [()]
    one.add(Text((), 99, "", 0.0, tuple(range(AT_ONCE))))
    assert one.propose() == [(place,) for place in range(AT_ONCE)]
    for place in range(AT_ONCE):
        one.add(Text((place,), 99, "", float(place == 5), (90, 91)))
    one.add(Text((1, 2), 99, "", 0.5, (92,)))
    assert one.propose()[:3] == [(5, 90), (5, 91), (1, 2, 92)]


def test_more_texts_find_a_score_at_least_as_good() -> None:
    for row in range(4):
        found = [max(text.score for text in searched(most=most, row=row).texts) for most in (5, 20, 60, 10_000)]
        assert found == sorted(found)


def test_rows_are_written_together_and_each_ends_once() -> None:
    sizes, ended = list[int](), list[int]()

    def counted(wanted: Sequence[tuple[int, Calls]]) -> list[Text]:
        sizes.append(len({row for row, _ in wanted}))
        return write(wanted)

    rows = {row: RowSearch([], 30) for row in range(3)}
    assert search(rows, counted, ended.append) == len(sizes)
    assert sizes[0] == 3 and sum(ended) == 3
