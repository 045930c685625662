"""Several models' outputs as one: whose seed is whose, and what a resample of seeds then draws."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks.curve.synthetic import measured, record, statistics
from wheels.benchmarks.core.cell import STUDENT_END, PointKey
from wheels.benchmarks.curve.resampled import Measured
from wheels.benchmarks.curve.summary import summarise
from wheels.errors import WheelsError


def model(quality: float, calls: int) -> Measured:
    """Two rules at budget 0.1, alike in every row: `learned` of that quality, and a threshold's decode with `calls`."""
    world = measured(rules=("learned", "margin"), budgets=(0.0, 0.1, 1.0), count=8, seeds=1)
    outputs = {PointKey("learned", 0, 0.1): [record(quality, 2, 20)] * 8}
    outputs[PointKey("margin", 0, 0.1)] = [record(22.0, calls, 20)] * 8
    return replace(world, outputs={**world.outputs, **outputs}, notes=())


def test_seeds_follow_each_other() -> None:
    first, second = model(24.0, 2), model(26.0, 3)
    pooled = Measured.pooled([first, second])
    assert {key for key in pooled.outputs if 0 < key.budget < 1} == {
        PointKey(rule, seed, 0.1) for rule in ("learned", "margin") for seed in (0, 1)
    }
    for rule in ("learned", "margin"):
        for seed, run in enumerate((first, second)):
            assert pooled.outputs[PointKey(rule, seed, 0.1)] is run.outputs[PointKey(rule, 0, 0.1)]
    assert pooled.notes == ["seeds of 2 models, pooled"]


def test_rules_that_one_model_lacks_are_left_out() -> None:
    second = replace(model(26.0, 3), rules=("learned",))
    assert Measured.pooled([model(24.0, 2), second]).rules == ["learned"]


def test_models_of_another_pair_are_refused() -> None:
    other = model(26.0, 3)
    other = replace(other, outputs={**other.outputs, STUDENT_END: [record(1.0, 0, 20)] * 8})
    with pytest.raises(WheelsError, match="--also takes models of one pair, and the student alone does not write"):
        Measured.pooled([model(24.0, 2), other])


def test_an_interval_takes_in_what_differs_from_model_to_model() -> None:
    """Every row is alike, so one model has no interval at all; of two it runs from one to the other."""
    one = summarise(model(24.0, 2), statistics)["at_use"][0]
    both = summarise(Measured.pooled([model(24.0, 2), model(26.0, 2)]), statistics)["at_use"][0]
    assert (one["value"], one["low"], one["high"]) == pytest.approx((24.0, 24.0, 24.0))
    assert (both["value"], both["low"], both["high"]) == pytest.approx((25.0, 24.0, 26.0))
