"""Shares of the way from random calls to the ceiling, on records whose quality is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from wheels.benchmarks.ceiling.ceilings import IMITATION
from wheels.benchmarks.ceiling.summary import summarise
from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record

ROWS = 60
REFERENCES = ["right" if row % 10 else "never" for row in range(ROWS)]
BUDGETS = (0.1, 0.2)


def records(right: int, use: float) -> list[Record]:
    """Return outputs of ten tokens of which this many of ten are right."""
    rng = np.random.default_rng(right)
    words = ["right" if rng.permutation(10)[0] < right else "wrong" for _ in REFERENCES]
    return [Record(word, 100, round(100 * use), 0, 0, 0.0) for word in words]


@pytest.fixture
def found() -> dict[str, Any]:
    outputs = {STUDENT_END: records(1, 0.0), TEACHER_END: records(7, 1.0)}
    qualities = {"random": (2, 3), "learned": (3, 6), IMITATION: (4, 7), "ceiling-exact": (8, 9)}
    for rule, rights in qualities.items():
        outputs |= {
            PointKey(rule, 0, budget): records(right, budget) for budget, right in zip(BUDGETS, rights, strict=True)
        }
    outputs[PointKey("learned", 0, 0.2)] = records(6, 0.22)
    return summarise(outputs, REFERENCES, ["exact"], ["random", "learned"], [*BUDGETS, 0.3, 0.6], 200)


def at(found: dict[str, Any], rule: str, use: float) -> dict[str, Any]:
    return next(row for row in found["at_use"] if (row["rule"], row["use"]) == (rule, use))


def test_shares_run_from_random_to_the_ceiling(found: dict[str, Any]) -> None:
    random, learned, ceiling = (at(found, rule, 0.1) for rule in ("random", "learned", "ceiling-exact"))
    assert (random["share"], random["share_low"], random["share_high"]) == (0.0, 0.0, 0.0)
    assert (ceiling["share"], ceiling["share_low"], ceiling["share_high"]) == (1.0, 1.0, 1.0)
    share = (learned["value"] - random["value"]) / (ceiling["value"] - random["value"])
    assert 0.0 < share < 1.0 and learned["share"] == pytest.approx(share)
    assert learned["share_low"] < share < learned["share_high"]
    imitation = at(found, IMITATION, 0.1)
    assert imitation["imitated"] == 1.0 and share < learned["imitated"] < 1.0
    assert learned["imitated"] == pytest.approx(share / imitation["share"])


def test_rules_are_held_at_equal_use(found: dict[str, Any]) -> None:
    points = {(point["rule"], point["budget"]): point for point in found["points"]}
    low, high = (points["learned", budget]["metrics"]["exact"] for budget in BUDGETS)
    assert points["learned", 0.2]["use"] == pytest.approx(0.22)
    assert at(found, "learned", 0.2)["value"] == pytest.approx(low + (high - low) * 0.1 / 0.12)


def test_a_ceiling_that_needs_no_more_calls_stays_as_it_is(found: dict[str, Any]) -> None:
    last = at(found, "ceiling-exact", 0.2)["value"]
    assert at(found, "ceiling-exact", 0.3)["value"] == at(found, "ceiling-exact", 0.6)["value"] == last
    assert last > found["teacher"]["exact"], "interpolated towards the teacher it would fall"
    assert math.isnan(at(found, "learned", 0.6)["value"]), "a rule's own points lie too far apart"
