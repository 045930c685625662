"""Predictions against truth: values computed by hand, and identities of the fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wheels.benchmarks.curve.reliability import GROUPS, Judged, reliability, spread


def judged(gain: list[float], regret: list[float]) -> Judged:
    return {"gain": gain, "regret": regret}


def test_explained_share_and_slope_by_hand() -> None:
    # gain 0, 1, 2, 3; regret 0, 2, 4, 6: mean 3, squares around it 20; errors 0, 1, 4, 9 make 14.
    found = reliability([[judged([0, 1], [0, 2]), judged([2, 3], [4, 6])]], 100, 0)
    assert found is not None
    assert found["explained"]["difference"] == pytest.approx(1 - 14 / 20)
    assert found["slope"]["difference"] == pytest.approx(2.0)
    assert (found["sentences"], found["states"]) == (2, 4)
    assert [(group["states"], group["gain"], group["regret"]) for group in found["groups"]] == [
        (1, 0.0, 0.0), (1, 1.0, 2.0), (1, 2.0, 4.0), (1, 3.0, 6.0)
    ]  # fmt: skip


def test_a_regret_counts_for_at_most_the_clip() -> None:
    found = reliability([[judged([0, 1], [0, 2]), judged([2, 3], [4, 6])]], 100, 0, clip=2.0)
    assert found is not None
    # Regret 0, 2, 2, 2: mean 1.5, squares around it 3; errors 0, 1, 0, 1. Slope: sum (g - 1.5)(r - 1.5) / 5 = 3 / 5.
    assert found["explained"]["difference"] == pytest.approx(1 - 2 / 3)
    assert found["slope"]["difference"] == pytest.approx(0.6)


def test_groups_are_equally_large_and_in_order_of_the_prediction() -> None:
    rng = np.random.default_rng(0)
    gain = rng.normal(size=(40, 5))
    sentences = [judged(row.tolist(), (3 * row + rng.normal(size=5)).tolist()) for row in gain]
    found = reliability([sentences], 300, 0)
    assert found is not None
    assert [group["states"] for group in found["groups"]] == [20] * GROUPS
    ordered = np.sort(gain.ravel()).reshape(GROUPS, 20).mean(1)
    assert [group["gain"] for group in found["groups"]] == pytest.approx(ordered.tolist())
    assert all(group["low"] < group["regret"] < group["high"] for group in found["groups"])
    assert found["slope"]["low"] < 3.0 < found["slope"]["high"] and found["slope"]["high"] - found["slope"]["low"] < 0.6


def test_the_fit_is_numpys_and_no_worse_far_from_zero() -> None:
    rng = np.random.default_rng(1)
    gain = rng.normal(size=60)
    regret = 0.7 * gain + rng.normal(size=60)
    for shift in (0.0, 1e6):
        one = [judged((gain + shift).tolist(), (regret + shift).tolist())]
        found = reliability([one], 100, 0)
        assert found is not None
        assert found["slope"]["difference"] == pytest.approx(np.polyfit(gain, regret, 1)[0], rel=1e-6)
        wanted = 1 - ((regret - gain) ** 2).sum() / ((regret - regret.mean()) ** 2).sum()
        assert found["explained"]["difference"] == pytest.approx(wanted, rel=1e-6)


def test_a_sentence_brings_its_states_of_every_seed() -> None:
    first, second = [judged([0.0], [0.0]), judged([1.0], [1.0])], [judged([2.0], [2.0]), judged([3.0], [5.0])]
    found = reliability([first, second], 200, 0)
    assert found is not None and (found["sentences"], found["states"]) == (2, 4)
    # Regret 0, 1, 2, 5: mean 2, squares around it 14.
    assert found["explained"]["difference"] == pytest.approx(1 - 4 / 14)
    # A draw of only the first sentence (0 -> 0, 2 -> 2) is perfect; of only the second (1 -> 1, 3 -> 5) it is 1 - 4/8.
    assert found["explained"]["low"] == pytest.approx(0.5) and found["explained"]["high"] == pytest.approx(1.0)
    assert [found["slope"][name] for name in ("low", "difference", "high")] == pytest.approx([1.0, 1.6, 2.0])


def test_nothing_that_varies_has_no_fit() -> None:
    flat = reliability([[judged([1.0, 2.0], [0.5, 0.5])]], 100, 0)
    assert flat is not None and math.isnan(flat["explained"]["difference"]) and flat["slope"]["difference"] == 0.0
    same = reliability([[judged([1.0, 1.0], [0.0, 0.5])]], 100, 0)
    assert same is not None and math.isnan(same["slope"]["difference"])
    assert same["explained"]["difference"] == pytest.approx(1 - 1.25 / 0.125)


def test_empty_outputs_have_no_states() -> None:
    assert reliability([[judged([], [])] * 3], 100, 0) is None
    one = reliability([[judged([], []), judged([1.0], [2.0])]], 100, 0)
    assert one is not None and one["states"] == 1 and len(one["groups"]) == 1


@pytest.mark.parametrize(
    ("count", "most", "rows"), [(3, 500, [0, 1, 2]), (10, 4, [0, 2, 5, 7]), (1, 1, [0]), (0, 5, [])]
)
def test_rows_are_spread_evenly(count: int, most: int, rows: list[int]) -> None:
    assert spread(count, most) == rows
