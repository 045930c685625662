"""The line of models alone, costs, and the cheapest way that holds: by hand, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.benchmarks.curve.synthetic import statistics
from wheels.benchmarks.core.cell import Record
from wheels.benchmarks.curve.resampled import Resampled
from wheels.benchmarks.frontier.front import PARAMETERS, TOKENS, Front, line_at
from wheels.benchmarks.frontier.ways import TEACHER_ALONE, Way
from wheels.benchmarks.passes.settings import frontier

SMALL, LARGE = Way("small"), Way("large")
FEW, MANY = (Way("small", "deferral", "margin", budget) for budget in (0.1, 0.5))
CHECKED = Way("small", "verified", "margin", 0.1)


def row(quality: float, by_teacher: int, teacher_passes: int, student_passes: int) -> Record:
    return Record(f"text {quality}", 20, by_teacher, teacher_passes, 20, 0.1, student_passes=student_passes)


def world(count: int = 6, noise: float = 0.0) -> Front:
    """Students of .1 and .5 of the teacher; every row alike where there is no noise."""
    rng = np.random.default_rng(0)
    rows = {
        SMALL: (20.0, 0, 0, 20),
        LARGE: (30.0, 0, 0, 20),
        TEACHER_ALONE: (40.0, 20, 20, 0),
        FEW: (28.0, 2, 2, 20),
        MANY: (36.0, 10, 10, 20),
        CHECKED: (29.0, 2, 3, 30),
    }
    hard_N = rng.normal(0, 10 * noise, count)
    outputs = {
        way.keys[0]: [row(quality + hard + rng.normal(0, noise), *spent) for hard in hard_N]
        for way, (quality, *spent) in rows.items()
    }
    sample = Resampled(outputs, ["x"] * count, ["bleu"], statistics, 400, 0)
    seconds = {1: {SMALL: [1.0, 3.0, 2.0], LARGE: [4.0, 6.0, 5.0], TEACHER_ALONE: [8.0, 12.0, 10.0]}}
    return Front({"small": 0.1, "large": 0.5}, list(rows), sample, seconds)


def test_the_line_mixes_two_models_and_leaves_a_cost_unspent():
    costs, values = np.array([[0.1, 0.5, 1.0]] * 2), np.array([[20.0, 30.0, 40.0], [20.0, 22.0, 40.0]])

    def at(cost: float) -> list[float]:
        return line_at(costs, values, np.full(2, cost)).tolist()

    assert at(0.1) == [20.0, 20.0] and at(0.3) == pytest.approx([25.0, 20.0 + 20.0 * 0.2 / 0.9])
    assert at(0.5) == pytest.approx([30.0, 20.0 + 20.0 * 0.4 / 0.9]), "a model under the chord is no part of the line"
    assert at(1.0) == at(7.0) == [40.0, 40.0], "a cost may be left unspent"
    assert all(map(math.isnan, at(0.05)))


def test_a_dearer_and_worse_model_changes_nothing():
    costs, values = np.array([[0.1, 0.4, 1.0]]), np.array([[20.0, 15.0, 18.0]])
    assert [line_at(costs, values, np.array([cost]))[0] for cost in (0.1, 0.7, 1.0)] == [20.0, 20.0, 20.0]


def test_equal_costs_take_the_better_one():
    costs, values = np.array([[0.0, 0.0, 1.0]]), np.array([[20.0, 30.0, 40.0]])
    assert line_at(costs, values, np.array([0.2]))[0] == pytest.approx(32.0)


def test_the_line_is_the_upper_concave_envelope():
    rng = np.random.default_rng(1)
    for _ in range(50):
        costs, values = rng.random((1, 6)), rng.random((1, 6))
        hull = frontier(list(zip(costs[0], values[0], strict=True)))
        for at in rng.uniform(costs.min(), 1.2, 5):
            wanted = np.interp(at, costs[0][hull], values[0][hull])
            assert line_at(costs, values, np.array([at]))[0] == pytest.approx(wanted)


def test_costs_by_hand():
    front = world()
    costs = {way: [front.cost(way, name)[0] for name in (PARAMETERS, TOKENS)] for way in front.ways}
    assert costs == {
        SMALL: pytest.approx([0.1, 0.0]),
        LARGE: pytest.approx([0.5, 0.0]),
        TEACHER_ALONE: pytest.approx([1.0, 1.0]),
        FEW: pytest.approx([0.1 + 0.1, 0.1]),
        MANY: pytest.approx([0.1 + 0.5, 0.5]),
        CHECKED: pytest.approx([1.5 * 0.1 + 0.15, 0.1]),
    }
    assert front.costs == [PARAMETERS, TOKENS, "seconds 1"]


def test_seconds_are_a_median_whose_rounds_are_drawn_alike_for_every_way():
    front = world()
    small_Z, large_Z = front.cost(SMALL, "seconds 1"), front.cost(LARGE, "seconds 1")
    assert (small_Z[0], large_Z[0]) == (2.0, 5.0)
    assert set(small_Z.tolist()) == {1.0, 2.0, 3.0}
    assert (large_Z - small_Z == 3.0).all(), "the same rounds"
    assert np.isnan(front.cost(FEW, "seconds 1")).all(), "not timed"


def test_what_a_call_adds_is_held_against_the_line_at_its_own_cost():
    front = world()
    # At .2 parameters the line is at 22.5, at .1 of the tokens at 31: the better student costs no token.
    assert front.above_line(FEW, "bleu", PARAMETERS)[0] == pytest.approx(28.0 - 22.5)
    assert front.above_line(FEW, "bleu", TOKENS)[0] == pytest.approx(28.0 - 31.0)
    assert np.allclose(front.above_line(LARGE, "bleu", PARAMETERS), 0.0)


def test_both_sides_of_a_difference_are_of_the_same_resample():
    front = world(count=40, noise=2.0)
    above_Z = front.above_line(FEW, "bleu", PARAMETERS)
    own = front.quality(FEW, "bleu")
    assert above_Z.std() < 0.2 * own.std(), "what makes a row hard is the same on both sides"


def test_the_cheapest_that_holds_and_of_equal_ones_the_smallest():
    front = world()
    assert front.cheapest(front.ways, TOKENS) == SMALL, "both students need no token"
    floor_Z = np.full(401, 27.0)
    holding = [way for way in front.ways if front.holding(way, "bleu", floor_Z) >= 0.9]
    assert holding == [LARGE, TEACHER_ALONE, FEW, MANY, CHECKED]
    assert front.cheapest(holding, PARAMETERS) == FEW and front.cheapest(holding, TOKENS) == LARGE
    assert front.cheapest(holding, "seconds 1") == LARGE, "of those that were timed"
    assert front.cheapest([FEW], "seconds 1") is None


def test_a_way_holds_in_a_share_of_the_resamples():
    front = world(count=40, noise=2.0)
    floor_Z = front.quality(FEW, "bleu")
    assert front.holding(FEW, "bleu", floor_Z) == 1.0
    assert front.holding(SMALL, "bleu", floor_Z) == 0.0
    near = front.holding(CHECKED, "bleu", floor_Z + 1.0)
    assert 0.1 < near < 0.9


def test_what_the_line_costs_by_hand():
    front = world()
    assert front.line_cost("bleu", PARAMETERS, np.full(401, 25.0), 0.9) == pytest.approx(0.3, abs=1e-3)
    assert front.line_cost("bleu", TOKENS, np.full(401, 35.0), 0.9) == pytest.approx(0.5, abs=1e-3)
    assert front.line_cost("bleu", PARAMETERS, np.full(401, 10.0), 0.9) == pytest.approx(0.1)
    assert math.isnan(front.line_cost("bleu", PARAMETERS, np.full(401, 41.0), 0.9))
