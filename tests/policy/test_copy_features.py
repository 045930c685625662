"""Where a text is in its source: by hand, and against a search of the definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheels.policy.copy_features import NAMES, CopyPointer, copy_features

TOKENS = st.lists(st.integers(0, 4), min_size=1, max_size=12)


def by_definition(source: list[int], text: list[int], best: list[int]) -> list[float]:
    """The same by looking through the source for each token."""
    place, row = -1, 0
    for token in text:
        behind = [j for j in range(place + 1, len(source)) if source[j] == token]
        row = row + 1 if behind and behind[0] == place + 1 else 0
        place = behind[0] if behind else place
    first, second = ([j - place for j in range(place + 1, len(source)) if source[j] == token] for token in best)
    goes_on = [float(distances[:1] == [1]) for distances in (first, second)]
    ahead = [float(bool(distances)) for distances in (first, second)]
    jump = [math.log(1 + distances[0]) if distances else 0.0 for distances in (first, second)]
    return [(place + 1) / len(source), math.log(1 + row), *goes_on, *ahead, *jump]


def named(place: CopyPointer, best: list[int]) -> dict[str, float]:
    return dict(zip(NAMES, place.features(best), strict=True))


def test_a_text_that_copies_by_hand() -> None:
    place = CopyPointer([10, 11, 12, 13, 11])
    assert named(place, [10, 11]) == pytest.approx({
        "place": 0.0, "copied": 0.0, "goes_on": 1.0, "goes_on_2": 0.0, "ahead": 1.0, "ahead_2": 1.0,
        "jump": math.log(2), "jump_2": math.log(3),
    })  # fmt: skip
    place.follow([10, 11])
    found = named(place, [13, 11])
    assert (found["place"], found["copied"]) == pytest.approx((0.4, math.log(3)))
    assert (found["goes_on"], found["jump"], found["jump_2"]) == pytest.approx((0.0, math.log(3), math.log(4)))
    place.follow([10, 11, 99])  # what the source does not have leaves the place, and ends the run
    assert (named(place, [12, 10])["place"], named(place, [12, 10])["copied"]) == (pytest.approx(0.4), 0.0)
    assert (named(place, [12, 10])["goes_on"], named(place, [12, 10])["ahead_2"]) == (1.0, 0.0)
    place.follow([10, 11, 99, 11])
    assert named(place, [11, 10])["place"] == 1.0 and named(place, [11, 10])["ahead"] == 0.0


@given(TOKENS, TOKENS, st.lists(st.integers(0, 4), min_size=2, max_size=2))
def test_it_is_the_definition(source: list[int], text: list[int], best: list[int]) -> None:
    place = CopyPointer(source)
    place.follow(text)
    assert place.features(best) == pytest.approx(by_definition(source, text, best))


@given(TOKENS, st.lists(TOKENS, min_size=1, max_size=5), st.lists(st.integers(0, 4), min_size=2, max_size=2))
def test_what_is_taken_back_leaves_no_trace(source: list[int], texts: list[list[int]], best: list[int]) -> None:
    place = CopyPointer(source)
    for text in texts:
        place.follow(text)
    assert place.features(best) == pytest.approx(by_definition(source, texts[-1], best))


def test_a_whole_text_has_a_state_before_each_token_and_one_behind_the_last() -> None:
    source, text, best = [1, 2, 3], [1, 3], [[1, 2], [2, 3], [3, 1]]
    expected = [by_definition(source, text[:state], best[state]) for state in range(3)]
    found = copy_features(source, text, best)
    assert len(found) == 3 and all(row == pytest.approx(by_hand) for row, by_hand in zip(found, expected, strict=True))
