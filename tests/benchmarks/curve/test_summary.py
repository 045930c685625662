from __future__ import annotations

import dataclasses
import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import sacrebleu

from tests.benchmarks.curve.synthetic import EXPONENTS, SEEDED, MeanStatistics, measured, record, statistics
from wheels.benchmarks.core.bootstrap import holm
from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.curve.resampled import Measured, Resampled
from wheels.benchmarks.curve.summary import interior, summarise
from wheels.errors import WheelsError
from wheels.metrics import sentence_statistics

DENSE = tuple(round(0.05 * step, 2) for step in range(21))


@pytest.fixture(scope="module")
def world() -> Measured:
    return measured(count=200, budgets=DENSE)


@pytest.fixture(scope="module")
def curve(world: Measured) -> dict[str, Any]:
    return summarise(world, statistics)


@pytest.mark.slow
def test_every_rule_seed_and_budget_has_a_point(curve: dict[str, Any], world: Measured) -> None:
    found = {(point["rule"], point["seed"], point["budget"]) for point in curve["points"]}
    wanted = {
        (rule, seed, budget)
        for rule in EXPONENTS
        for seed in range(3 if rule in SEEDED else 1)
        for budget in world.budgets
    }
    assert found == wanted
    assert len(curve["points"]) == len(wanted)


@pytest.mark.slow
def test_a_point_adds_its_records_up(curve: dict[str, Any], world: Measured) -> None:
    key = PointKey("learned", 1, 0.2)
    records = world.outputs[key]
    point = next(p for p in curve["points"] if (p["rule"], p["seed"], p["budget"]) == ("learned", 1, 0.2))
    assert point["use"] == pytest.approx(sum(r.teacher_tokens for r in records) / sum(r.tokens for r in records))
    assert point["use_p95"] == pytest.approx(np.percentile([r.teacher_tokens / 20 for r in records], 95))
    assert point["quality"] == point["metrics"]["bleu"]
    assert point["metrics"]["bleu"] == pytest.approx(np.mean([float(r.text.split()[-1]) for r in records]))
    assert point["pgr"] == pytest.approx(
        (point["quality"] - curve["student"]["quality"]) / (curve["teacher"]["quality"] - curve["student"]["quality"])
    )
    assert point["positions_per_token"] == pytest.approx(sum(r.teacher_positions for r in records) / (20 * 200))
    assert point["passes_per_token"] == pytest.approx(point["use"])
    assert point["seconds"] == pytest.approx(2.0)
    assert point["signature"] == "synthetic_de_en|200|small|large|learned|0.2|1|wheels:0.1.0"


def test_the_ends_are_the_models_own_outputs_under_every_rule(curve: dict[str, Any]) -> None:
    for rule in curve["rules"]:
        points = [point for point in curve["points"] if (point["rule"], point["seed"]) == (rule, 0)]
        first, last = points[0], points[-1]
        assert (first["use"], first["pgr"], first["quality"]) == (0.0, 0.0, curve["student"]["quality"])
        assert (last["use"], last["pgr"], last["quality"]) == (1.0, 1.0, curve["teacher"]["quality"])
    assert curve["student"]["name"] == "small"
    assert curve["teacher"]["metrics"] == pytest.approx({"bleu": 33.8, "chrf": 48.8}, abs=1.0)


def test_areas_and_thresholds_follow_the_known_curves(curve: dict[str, Any]) -> None:
    # The integral of u ** a; a chord lies below a concave curve, so the measured area is a little less.
    for rule, exponent in EXPONENTS.items():
        assert curve["apgr"][rule]["0-1"] == pytest.approx(1 / (1 + exponent), abs=0.035)
        assert curve["cpt"][rule]["50"] == pytest.approx(0.5 ** (1 / exponent), abs=0.05)
    assert curve["apgr"]["random"]["0-0.3"] == pytest.approx(0.045, abs=0.01)
    assert len(curve["apgr_seeds"]["learned"]["0-1"]) == 3
    assert np.mean(curve["apgr_seeds"]["learned"]["0-1"]) == pytest.approx(curve["apgr"]["learned"]["0-1"])


def test_the_best_trivial_rule_is_chosen_use_by_use(curve: dict[str, Any]) -> None:
    for use in interior(curve):
        values = {row["rule"]: row["value"] for row in curve["at_use"] if row["use"] == use and row["metric"] == "bleu"}
        best = max(("maxprob", "entropy", "margin"), key=values.__getitem__)
        tests = [t for t in curve["paired"] if t["budget"] == use and t["metric"] == "bleu" and t["rule"] == "learned"]
        assert [t["against"] for t in tests] == ["best trivial", "random", "regret", "gate", "router"]
        assert tests[0]["baseline"] == best
        for test in tests:
            assert test["difference"] == pytest.approx(values["learned"] - values[test["baseline"]])
            assert test["low"] < test["difference"] < test["high"]
            assert test["pgr_low"] < test["pgr_difference"] < test["pgr_high"]


def test_shares_at_equal_use(curve: dict[str, Any]) -> None:
    rows = {row["rule"]: row for row in curve["at_use"] if row["use"] == 0.2 and row["metric"] == "bleu"}
    gap = curve["teacher"]["quality"] - curve["student"]["quality"]
    for row in rows.values():
        assert row["pgr"] == pytest.approx((row["value"] - curve["student"]["quality"]) / gap)
        assert row["low"] < row["value"] < row["high"]
    lift = rows["foresight"]["value"] - rows["random"]["value"]
    assert rows["learned"]["foresight_share"] == pytest.approx(
        (rows["learned"]["value"] - rows["random"]["value"]) / lift
    )
    assert (rows["random"]["foresight_share"], rows["foresight"]["foresight_share"]) == (0.0, 1.0)


def two_rules(count: int = 40) -> Measured:
    """Return two rules on one line, quality 20 + 10 * use; one overspends its budget by half."""

    def decode(use: float) -> list[Record]:
        return [record(20 + 10 * use + (i % 5), round(100 * use), 100) for i in range(count)]

    outputs = {STUDENT_END: decode(0.0), TEACHER_END: decode(1.0)}
    for budget in (0.06, 0.12):
        outputs[PointKey("regret", 0, budget)] = decode(budget)
        outputs[PointKey("random", 0, budget)] = decode(1.5 * budget)
    return dataclasses.replace(
        measured(count=count), rules=("regret", "random"), budgets=(0.0, 0.06, 0.12, 1.0), outputs=outputs
    )


def test_equal_use_means_equal_use() -> None:
    found = summarise(two_rules(), statistics)
    test = next(t for t in found["paired"] if t["budget"] == 0.06 and t["metric"] == "bleu")
    assert (test["rule"], test["baseline"]) == ("regret", "random")
    assert test["difference"] == pytest.approx(0.0, abs=1e-9)
    # At one nominal budget the overspender looks better.
    quality = {p["rule"]: p["quality"] for p in found["points"] if p["budget"] == 0.06}
    assert quality["random"] - quality["regret"] == pytest.approx(0.3)


def test_adherence_is_of_measured_use() -> None:
    found = summarise(two_rules(), statistics)["adherence"]
    assert found["regret"]["mean_abs_error"] == pytest.approx(0.0, abs=1e-9)
    assert found["random"]["mean_abs_error"] == pytest.approx((0.03 + 0.06) / 2)
    assert found["random"]["worst_abs_error"] == pytest.approx(0.06)
    assert found["random"]["use_p95"] == pytest.approx({"0.06": 0.09, "0.12": 0.18})
    assert found["random"]["violations"] is None
    world = two_rules()
    swapped = {
        PointKey("random", 0, b): world.outputs[PointKey("regret", 0, o)] for b, o in ((0.06, 0.12), (0.12, 0.06))
    }
    under = summarise(dataclasses.replace(world, outputs={**world.outputs, **swapped}), statistics)["adherence"]
    assert under["random"]["mean_abs_error"] == pytest.approx(0.06)  # one above, one below


def test_strict_mode_counts_outputs_that_broke_their_budget() -> None:
    world = dataclasses.replace(two_rules(), mode="strict")
    outputs = dict(world.outputs)
    kept = record(22.0, 0, 100)
    # Every synthetic record calls first, so each breaks its budget at its first token; one does not.
    outputs[PointKey("regret", 0, 0.06)] = [kept, *outputs[PointKey("regret", 0, 0.06)][1:]]
    found = summarise(dataclasses.replace(world, outputs=outputs), statistics)["adherence"]
    assert found["regret"]["violations"] == 2 * 40 - 1
    allowed = summarise(dataclasses.replace(world, outputs=outputs, burst=20), statistics)["adherence"]
    assert allowed["regret"]["violations"] == 0


def test_a_small_gap_gives_no_share_and_valid_json() -> None:
    def flat(metric: str, hypotheses: list[str], references: list[str]) -> MeanStatistics:
        return MeanStatistics([20.0 + i for i in range(len(hypotheses))])

    with pytest.warns(UserWarning, match="no share of the gap"):
        found = summarise(measured(count=10), flat)
    assert all(math.isnan(point["pgr"]) for point in found["points"])
    plain = json.loads(json.dumps(plain_values(found), allow_nan=False))
    assert plain["points"][0]["pgr"] is None
    assert plain["apgr"]["learned"]["0-1"] is None
    assert plain["points"][0]["quality"] == 24.5


def test_the_json_has_the_promised_keys(curve: dict[str, Any]) -> None:
    plain = json.loads(json.dumps(plain_values(curve), allow_nan=False))
    assert {"task", "student", "teacher", "points", "apgr", "cpt", "paired", "signature", "versions"} <= set(plain)
    assert {
        "rule", "budget", "use", "use_p95", "metrics", "quality", "pgr", "passes_per_token", "positions_per_token",
        "seconds", "seed", "signature",
    } <= set(plain["points"][0])  # fmt: skip
    assert set(plain["apgr"]["learned"]) == {"0-1", "0-0.3"}
    assert set(plain["cpt"]["learned"]) == {"50", "80", "95"}
    assert {"rule", "baseline", "budget", "metric", "difference", "low", "high", "p"} <= set(plain["paired"][0])


def test_only_the_ends() -> None:
    found = summarise(measured(budgets=(0.0, 1.0), count=10), statistics)
    assert found["paired"] == found["at_use"] == []
    assert math.isnan(found["apgr"]["learned"]["0-1"]) and math.isnan(found["cpt"]["learned"]["50"])
    assert math.isnan(found["adherence"]["learned"]["mean_abs_error"])


def test_ends_are_there_when_not_asked_for() -> None:
    world = measured(budgets=(0.2, 0.5), count=30)
    found = summarise(world, statistics)
    assert {point["budget"] for point in found["points"]} == {0.2, 0.5}
    assert found["teacher"]["quality"] > found["student"]["quality"] + 10


def test_what_lies_in_a_gap_is_not_measured() -> None:
    """Budgets 0, 0.2 and 1: no figure at use 0.2 of a rule that came to 0.15 there, none over the rest."""
    world = measured(budgets=(0.0, 0.2, 1.0), rules=("regret", "maxprob", "margin", "random"), count=40, seeds=1)
    spent = {"regret": 3, "maxprob": 4, "margin": 3, "random": 4}
    outputs = {
        key: [record(float(one.text.split()[-1]), spent[key.rule], 20) for one in records]
        for key, records in world.outputs.items()
        if key.rule in spent
    }
    found = summarise(dataclasses.replace(world, outputs={**world.outputs, **outputs}), statistics)
    value = {row["rule"]: row["value"] for row in found["at_use"] if row["metric"] == "bleu"}
    assert {rule for rule in value if math.isnan(value[rule])} == {"regret", "margin"}
    assert value["random"] == next(p["quality"] for p in found["points"] if (p["rule"], p["budget"]) == ("random", 0.2))
    assert all(math.isnan(area) for areas in found["apgr"].values() for area in areas.values())
    assert all(math.isnan(use) for uses in found["cpt"].values() for use in uses.values())
    assert all(math.isnan(test["difference"]) for test in found["apgr_paired"])
    (trivial, against_random), _ = [[t for t in found["paired"] if t["metric"] == m] for m in ("bleu", "chrf")]
    assert (trivial["baseline"], against_random["baseline"]) == ("maxprob", "random")  # of those measured
    assert math.isnan(trivial["difference"]) and math.isnan(trivial["p_holm"])
    plain = json.loads(json.dumps(plain_values(found), allow_nan=False))
    assert next(row for row in plain["at_use"] if row["rule"] == "regret")["value"] is None


def test_comparisons_are_corrected_within_their_rule_and_metric(curve: dict[str, Any]) -> None:
    family = [
        t for t in curve["paired"] if (t["rule"], t["metric"]) == ("regret", "chrf") and t["budget"] in (0.1, 0.2, 0.3)
    ]
    assert [t["p_holm"] for t in family] == holm([t["p"] for t in family])
    assert max(t["p_holm"] for t in family) <= 1.0 and any(t["p_holm"] > t["p"] for t in family)
    others = [t for t in curve["paired"] if t["budget"] not in (0.1, 0.2, 0.3)]
    assert others and all(math.isnan(t["p_holm"]) for t in others)


@pytest.mark.slow
def test_the_same_outputs_give_the_same_curve(world: Measured, curve: dict[str, Any]) -> None:
    assert plain_values(summarise(world, statistics)) == plain_values(curve)


def test_outputs_must_match_the_references(world: Measured) -> None:
    outputs = {**world.outputs, STUDENT_END: world.outputs[STUDENT_END][1:]}
    with pytest.raises(WheelsError, match=r"student-0-0\.0\.jsonl\.gz holds 199 outputs for 200 references"):
        summarise(dataclasses.replace(world, outputs=outputs), statistics)


def test_real_metrics_are_sacrebleus() -> None:
    references = ["the cat sat on the mat", "a dog runs in the park", "two men play chess outside"]
    texts = {STUDENT_END: ["the cat", "dog park", "men outside now"], TEACHER_END: references}
    outputs = {key: [Record(text, 4, 0, 0, 0, 0.0) for text in texts[key]] for key in texts}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample = Resampled(outputs, references, ("bleu", "chrf"), sentence_statistics, 100, 0)
    expected = sacrebleu.corpus_bleu(texts[STUDENT_END], [references]).score
    assert sample.quality["bleu", STUDENT_END][0] == pytest.approx(expected)
    assert sample.quality["chrf", TEACHER_END][0] == pytest.approx(100.0)
