"""Which rules a curve measures, and their thresholds: those that the model has, or measured first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks.curve.test_run import OTHER_ROWS, TEST_ROWS, Artefact, Calibration, World, write_rows
from tests.benchmarks.curve.test_run import world as world  # the fixture
from wheels.benchmarks.curve import decodes
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.curve.decodes import rows_digest
from wheels.decoding.methods.rules import RULE_NAMES, TRAINED
from wheels.errors import WheelsError


@pytest.mark.parametrize("limit", [None, 3])
def test_thresholds_from_the_scored_rows_are_refused(world: World, limit: int | None) -> None:
    world.artefact.calibration.data_digest = rows_digest(TEST_ROWS)
    with pytest.raises(WheelsError, match="nothing is calibrated on the split it is scored on"):
        world.run(limit=limit)
    _, decoder = world.run(budgets=(0.0, 1.0))  # the ends need no threshold
    assert len(decoder.calls) == 2


def test_what_is_not_calibrated_is_named(world: World) -> None:
    world.artefact.calibration.lacking = ("learned", "entropy")
    with pytest.raises(
        WheelsError,
        match=r"not calibrated: learned \(seed 0\) at 0.2, .* and 3 more; measure one by wheels.calibrate.*; or name",
    ):
        world.run()


def test_fewer_trained_seeds_are_said(world: World) -> None:
    curve, _ = world.run(seeds=3, rules=("learned", "regret", "random"))
    assert curve["seeds"] == {"learned": [0, 1], "regret": [0, 1, 2], "random": [0, 1, 2]}
    assert curve["notes"] == ["learned was trained with 2 of the 3 seeds asked for"]


def test_a_rule_without_a_head_is_refused(world: World) -> None:
    world.artefact.heads = {"regret": ["c"]}
    with pytest.raises(WheelsError, match="embedded pair has no trained head for rule 'learned'; leave it out"):
        world.run()


def calibrated_rules(*names: str) -> list[Any]:
    return [SimpleNamespace(rule=name) for name in names]


def test_without_rules_all_that_the_model_has_heads_and_thresholds_for_are_measured(world: World) -> None:
    world.artefact.calibration.points = calibrated_rules("learned", "regret", "entropy", "gate")
    curve, _ = world.run(rules=None)
    assert curve["rules"] == ["learned", "regret", "entropy", "random", "every-k"]
    assert curve["notes"] == [
        "not measured, for want of a trained head, thresholds or logits: "
        "paired, gate, router, reinforce, maxprob, margin, first-k, foresight"
    ]
    world.artefact.heads["gate"] = ["f", "g"]
    assert world.run(rules=None)[0]["rules"] == ["learned", "regret", "gate", "entropy", "random", "every-k"]


def test_without_rules_a_model_that_was_never_calibrated_is_refused(world: World) -> None:
    world.artefact.calibration.lacking = ("learned",)
    with pytest.raises(WheelsError, match="not calibrated: learned"):
        world.run(rules=None)


@pytest.fixture
def asked(world: World) -> list[Any]:
    """What is asked to be calibrated; the result is kept beside the results of the curve."""
    asked: list[Any] = []
    kept: dict[Path, Calibration] = {}

    def measure(artefact: Artefact, config: Any) -> Calibration:
        asked.append(config)
        return Calibration(save=lambda path: kept.update({path: Calibration()}))

    world.monkeypatch.setattr(decodes.calibrate, "measure", measure)
    load = SimpleNamespace(load=lambda path: kept.get(path, Calibration(data_digest=None)))
    world.monkeypatch.setattr(decodes, "Calibration", load)
    return asked


def test_calibration_data_calibrates_first_and_leaves_the_model_as_it_is(
    world: World, tmp_path: Path, asked: list[Any]
) -> None:
    other = write_rows(tmp_path / "other.jsonl", OTHER_ROWS)
    for _ in range(2):  # the second time its calibration is there
        world.artefact.calibration = Calibration(lacking=("learned",))
        world.run(calibration_data=str(other), model="m")
    assert [(c.data, c.seeds) for c in asked] == [(str(other), 2)]
    assert asked[0].rules == ("learned", "random", "entropy")
    assert {0.2, 0.5} <= set(asked[0].budgets)
    with pytest.raises(WheelsError, match="nothing is calibrated on the split it is scored on"):
        world.run(calibration_data=str(world.data), model="m")
    assert len(asked) == 1


@pytest.mark.parametrize(("of", "times"), [(None, 1), (300, 1), (200, 2)])
def test_a_calibration_on_other_rows_of_the_data_is_made_again(
    world: World, tmp_path: Path, asked: list[Any], of: int | None, times: int
) -> None:
    other = write_rows(tmp_path / "other.jsonl", OTHER_ROWS)
    world.run(calibration_data=str(other), calibration_limit=300, model="m")
    kept = Calibration(data_digest=rows_digest(OTHER_ROWS), config={"limit": 300})
    world.monkeypatch.setattr(decodes, "Calibration", SimpleNamespace(load=lambda path: kept))
    world.artefact.calibration = Calibration(lacking=("learned",))
    world.run(calibration_data=str(other), calibration_limit=of, model="m")
    assert [config.limit for config in asked] == [300, of][:times]
    with pytest.raises(WheelsError, match="calibration_limit needs calibration_data"):
        CurveConfig(calibration_limit=300)


def test_calibration_data_calibrates_every_rule_that_has_a_head(world: World, tmp_path: Path, asked: list[Any]) -> None:
    world.artefact.calibration = Calibration(lacking=("first-k",), points=calibrated_rules("learned"))
    other = write_rows(tmp_path / "other.jsonl", OTHER_ROWS)
    curve, _ = world.run(rules=None, calibration_data=str(other))  # the embedded pair
    assert (
        curve["rules"]
        == list(asked[0].rules)
        == [rule for rule in RULE_NAMES if rule in ("learned", "regret") or rule not in TRAINED]
    )
