"""How rows are put into passes: by hand, and what holds of every division."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wheels.decoding.models.forward_batches import CHUNK, PADDING, ForwardBatch, group_rows, plan_forward_batches

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=7)


def plain(batches: Sequence[ForwardBatch]) -> list[tuple[list[int], list[int], bool]]:
    return [(batch.rows, batch.counts, batch.final) for batch in batches]


HAND = [
    ("one row", [5], {}, [([0], [5], True)]),
    ("alike", [5, 5, 4], {}, [([0, 1, 2], [5, 5, 4], True)]),
    ("a long one apart", [2, 50, 3], {"overhead": 5}, [([0, 2], [2, 3], True), ([1], [50], True)]),
    ("a pass is dear", [2, 50, 3], {"overhead": 6}, [([0, 1, 2], [2, 50, 3], True)]),
    ("a pass is cheap", [2, 50, 3], {"overhead": 1}, [([0, 2], [2, 3], True), ([1], [50], True)]),
    ("too long for one pass", [10], {"chunk": 4}, [([0], [4], False), ([0], [4], False), ([0], [2], True)]),
    ("just fits", [8], {"chunk": 4}, [([0], [4], False), ([0], [4], True)]),
    ("two rows share a chunk", [5, 3], {"chunk": 6}, [([0], [3], False), ([0, 1], [2, 3], True)]),
    ("what is wanted stays together", [10], {"chunk": 4, "wanted": [6]}, [([0], [4], False), ([0], [6], True)]),
    ("all is wanted", [10], {"chunk": 4, "wanted": [10]}, [([0], [10], True)]),
    ("the last step before the wanted", [7], {"chunk": 4, "wanted": [5]}, [([0], [2], False), ([0], [5], True)]),
]


@pytest.mark.parametrize("case", HAND, ids=lambda case: case[0])
def test_passes_by_hand(case):
    _, counts, options, expected = case
    assert plain(plan_forward_batches(counts, **options)) == expected


@given(counts=COUNTS, overhead=st.integers(1, 60), chunk=st.integers(1, 50), data=st.data())
def test_every_token_is_read_once_and_in_order(counts, overhead, chunk, data):
    wanted = [data.draw(st.integers(1, count)) for count in counts]
    left, ended = list(counts), []
    for batch in plan_forward_batches(counts, overhead=overhead, chunk=chunk, wanted=wanted):
        assert batch.rows and len(batch.rows) == len(set(batch.rows)) == len(batch.counts) and min(batch.counts) >= 1
        assert not set(batch.rows) & set(ended), "nothing is read after the final pass of a row"
        for row, count in zip(batch.rows, batch.counts, strict=True):
            left[row] -= count
            assert left[row] == 0 if batch.final else left[row] >= wanted[row], (
                "wanted positions stay in the final pass"
            )
            assert not batch.final or count >= wanted[row]
        if batch.final:
            ended += batch.rows
    assert left == [0] * len(counts) and sorted(ended) == list(range(len(counts)))


@given(counts=COUNTS, overhead=st.integers(1, 60), chunk=st.integers(1, 50), data=st.data())
def test_no_pass_is_larger_than_a_chunk_unless_a_row_wants_more(counts, overhead, chunk, data):
    wanted = [data.draw(st.integers(1, count)) for count in counts]
    for batch in plan_forward_batches(counts, overhead=overhead, chunk=chunk, wanted=wanted):
        enough = max([wanted[row] for row in batch.rows] if batch.final else [1])
        assert sum(batch.counts) <= max(chunk, len(batch.rows) * enough)


def cost(groups: Sequence[Sequence[int]], counts: Sequence[int], overhead: int) -> int:
    """Return what a division costs, in padded tokens; what the tokens themselves cost is the same in all."""
    return sum(overhead * PADDING + len(group) * max(counts[row] for row in group) for group in groups)


def partitions(rows: list[int]) -> list[list[list[int]]]:
    if not rows:
        return [[]]
    first, others = rows[0], partitions(rows[1:])
    return [
        [*rest[:place], [first, *rest[place]], *rest[place + 1 :]] for rest in others for place in range(len(rest))
    ] + [[[first], *rest] for rest in others]


@given(counts=COUNTS, overhead=st.integers(0, 60))
def test_a_division_never_costs_more_than_one_pass_or_each_row_alone(counts, overhead):
    found, rows = cost(group_rows(counts, overhead), counts, overhead), range(len(counts))
    assert found <= cost([list(rows)], counts, overhead) and found <= cost([[row] for row in rows], counts, overhead)


@settings(max_examples=40)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6), overhead=st.integers(0, 40))
def test_no_division_costs_less(counts, overhead):
    """Against all partitions of up to six rows."""
    best = min(cost(groups, counts, overhead) for groups in partitions(list(range(len(counts)))))
    assert cost(group_rows(counts, overhead), counts, overhead) == best


def test_a_worse_division_would_be_seen():
    """The negative control: neighbours as they came, not as they are sorted, cost more."""
    counts = [2, 50, 2, 49]
    assert cost(group_rows(counts, 2), counts, 2) == 32 + 4 + 32 + 100 < cost([[0, 3], [1, 2]], counts, 2)


def test_as_it_is_set_a_batch_of_single_tokens_is_one_pass():
    assert plain(plan_forward_batches([1] * 64)) == [(list(range(64)), [1] * 64, True)]
    assert plain(plan_forward_batches([600, 1])) == [
        ([1], [1], True),
        ([0], [CHUNK], False),
        ([0], [600 - CHUNK], True),
    ]
