"""Copied drafts by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheels.decoding.methods.lookup import LONGEST_MATCH, copied_draft

CASES = [
    ("the ending stands in the source", [1, 2, 3, 4, 5], [9, 1, 2, 3], 2, [4, 5]),
    ("nothing is written yet", [1, 2, 3], [], 4, []),
    ("nothing is there at all", [], [], 4, []),
    ("the last token never stood before", [1, 2, 3], [1, 2, 9], 4, []),
    ("one token matches", [7, 5, 6], [9, 5], 4, [6, 9, 5]),
    ("three tokens win over two", [1, 2, 3, 10, 9, 2, 3, 20], [1, 2, 3], 1, [10]),
    ("two tokens win over one, though it is in the text", [8, 2, 3, 10], [3, 20, 2, 3], 1, [10]),
    ("two tokens, where three never stood", [4, 2, 3, 10], [1, 2, 3], 1, [10]),
    ("the text wins over the source", [2, 3, 10], [2, 3, 20, 2, 3], 1, [20]),
    ("the last place in the text", [], [5, 10, 5, 20, 5], 1, [20]),
    ("the first place in the source", [5, 10, 5, 20], [5], 1, [10]),
    ("no longer than asked", [1, 2, 3, 4, 5, 6], [1], 3, [2, 3, 4]),
    ("a length of 0", [1, 2, 3], [1], 0, []),
    ("a loop is drafted on", [], [6, 7, 6, 7], 5, [6, 7]),
    ("over the border of source and text", [1, 2], [3, 1, 2], 2, [3, 1]),
    ("the source's last token", [9, 4], [4], 2, [4]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_drafts_by_hand(case):
    _, source, text, length, expected = case
    assert copied_draft(source, text, length) == expected


def obvious(source: list[int], text: list[int], length: int) -> list[int]:
    """Every place of every ending, the best of them by what is told of it."""
    whole = source + text
    found = [
        (size, place >= len(source), place if place >= len(source) else -place, place + size)
        for size in range(1, min(LONGEST_MATCH, len(text)) + 1)
        for place in range(len(whole) - size)
        if whole[place : place + size] == text[-size:]
    ]
    return whole[max(found)[3] :][:length] if found else []


TOKENS = st.lists(st.integers(0, 3), max_size=9)


@given(source=TOKENS, text=TOKENS, length=st.integers(0, 5))
def test_the_search_is_the_obvious_one(source, text, length):
    assert copied_draft(source, text, length) == obvious(source, text, length)
