from __future__ import annotations

import dataclasses
import math

import pytest

from tests.benchmarks.curve.synthetic import measured, statistics
from tests.pictures import drawn
from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.curve.detail_plots import draw_adherence
from wheels.benchmarks.curve.resampled import Measured
from wheels.benchmarks.curve.summary import summarise


def record(quality: float, calls: int, tokens: int) -> Record:
    authors = ("teacher",) * calls + ("student",) * (tokens - calls)
    return Record(f"{quality}", tokens, calls, calls, 2 * calls, 0.0, ("",) * tokens, authors)


def small(budgets: tuple[float, ...] = (0.0, 0.2, 1.0)) -> Measured:
    """Two rows of 10 tokens; the gap is from 10 to 30 points."""
    outputs = {
        STUDENT_END: [record(10, 0, 10)] * 2,
        TEACHER_END: [record(30, 10, 10)] * 2,
        PointKey("learned", 0, 0.2): [record(20, 1, 10), record(24, 3, 10)],
        PointKey("learned", 1, 0.2): [record(18, 0, 10), record(18, 2, 10)],
        PointKey("maxprob", 0, 0.2): [record(16, 2, 10)] * 2,
    }
    return Measured(
        "task", "q", "p", ["x", "y"], ["x", "y"], ("bleu", "chrf"), budgets, ("learned", "maxprob"), "average", outputs,
        resamples=100,
    )  # fmt: skip


def test_the_line_of_a_rule_at_its_budget() -> None:
    curve = summarise(small(), statistics)
    learned, maxprob = curve["at_budget"]
    # Seeds: quality 22 and 18, use 0.2 and 0.1; 6 calls in 40 tokens.
    assert (learned["rule"], learned["budget"], learned["use"]) == ("learned", 0.2, pytest.approx(0.15))
    assert learned["metrics"]["bleu"]["value"] == pytest.approx(20.0)
    assert learned["metrics"]["chrf"]["value"] == pytest.approx(35.0)
    assert learned["pgr"]["value"] == pytest.approx(0.5)
    assert (learned["passes_per_token"], learned["positions_per_token"]) == pytest.approx((0.15, 0.3))
    assert 18.0 == learned["metrics"]["bleu"]["low"] < learned["metrics"]["bleu"]["high"] <= 24.0
    assert maxprob["metrics"]["bleu"] == pytest.approx({"value": 16.0, "low": 16.0, "high": 16.0})


def test_areas_against_maxprob() -> None:
    outputs = {key: records for key, records in small().outputs.items() if key in (STUDENT_END, TEACHER_END)}
    for tenths in (1, 2, 3):  # shares of the gap: maxprob .15 a tenth; the seeds .3 and .2
        budget = tenths / 10
        outputs[PointKey("maxprob", 0, budget)] = [record(10 + 3 * tenths, tenths, 10)] * 2
        outputs[PointKey("learned", 0, budget)] = [record(10 + 6 * tenths, tenths, 10)] * 2
        outputs[PointKey("learned", 1, budget)] = [record(10 + 4 * tenths, tenths, 10)] * 2
    curve = summarise(dataclasses.replace(small((0.0, 0.1, 0.2, 0.3, 1.0)), outputs=outputs), statistics)
    (test,) = curve["apgr_paired"]
    # Triangles over uses 0 to 0.3: up to .9 and .6, and up to .45.
    assert (test["rule"], test["baseline"], test["metric"]) == ("learned", "maxprob", "bleu")
    assert test["difference"] == pytest.approx(0.3 * ((0.9 + 0.6) / 2 - 0.45) / 2)
    assert test["low"] == pytest.approx(0.3 * (0.6 - 0.45) / 2) and test["low"] < test["difference"] < test["high"]


def test_areas_over_a_gap_are_not_compared() -> None:
    (test,) = summarise(small(), statistics)["apgr_paired"]
    assert math.isnan(test["difference"]) and math.isnan(test["low"])


def test_without_maxprob_there_is_no_comparison_of_areas() -> None:
    assert summarise(measured(count=5, rules=("learned", "random")), statistics)["apgr_paired"] == []


def test_the_spread_of_use_over_single_outputs() -> None:
    curve = summarise(small(), statistics)
    # Uses 0, 0.1, 0.2, 0.3 of the four outputs of both seeds: quantiles are linear between them.
    assert curve["adherence"]["learned"]["use_quantiles"]["0.2"] == pytest.approx([0.015, 0.075, 0.15, 0.225, 0.285])
    assert curve["adherence"]["learned"]["use_p95"]["0.2"] == pytest.approx(0.285)
    assert curve["adherence"]["learned"]["mean_abs_error"] == pytest.approx(0.05)
    assert curve["adherence"]["learned"]["worst_abs_error"] == pytest.approx(0.1)


@pytest.mark.parametrize("mode", ["average", "strict"])
@pytest.mark.parametrize("rules", [("learned", "maxprob", "random"), ("foresight",)])
def test_adherence_is_drawn(mode: str, rules: tuple[str, ...]) -> None:
    found = summarise(measured(count=10, mode=mode, rules=rules, budgets=(0.0, 0.3, 0.9)), statistics)
    whole, single = drawn(draw_adherence, plain_values(found)).axes
    assert len(whole.lines) == len(rules) + 1 and len(single.collections) == 3


@pytest.mark.parametrize(("budgets", "shown"), [((0.0, 1.0), None), ((0.1, 0.25, 0.5), 0.25), ((0.9,), 0.9)])
def test_the_budget_that_is_looked_at_is_the_nearest(budgets: tuple[float, ...], shown: float | None) -> None:
    assert small(budgets).shown == shown
