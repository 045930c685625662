"""The whole page of tiny real pairs: every section that there is something for, and a sentence where there is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.decoding.tiny import save_artefact, write
from tests.envs.tiny import SOURCES
from tests.marks import slow
from wheels.benchmarks.core.cell import PointKey, Record
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.curve import reliability
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.curve.reliability import judge
from wheels.benchmarks.curve.run import run
from wheels.decoding import teacher_forcing
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.rules import HeadScore
from wheels.decoding.step import Step
from wheels.models.artefact import Artefact
from wheels.policy.calibration import Calibration, Point

TITLES = ["At budget", "How budgets were kept", "Where the calls go", "Is a call worth", "The price of a call"]


@pytest.fixture(scope="module", params=["t5", *slow("llama")])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_artefact(tmp_path_factory.mktemp(request.param) / "model", request.param)
    points = [Point(rule, seed, budget, 0.0, budget) for rule in ("learned", "regret") for seed in (0, 1)
              for budget in (0.1, 0.3)]  # fmt: skip
    points += [Point("maxprob", 0, budget, 1.0 - budget, budget) for budget in (0.1, 0.3)]
    Calibration(points, "other:validation", "other").save(folder / "deferral" / "calibration.json")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [json.dumps({"source": source, "target": "a b c"}) for source in SOURCES]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def settings(model: Path, data: Path, **change: Any) -> CurveConfig:
    usual: dict[str, Any] = {
        "model": str(model), "data": str(data), "output": str(data / "out"), "budgets": (0.0, 0.2, 1.0), "seeds": 2,
        "rules": ("learned", "maxprob", "random"), "resamples": 100, "max_new_tokens": 8,
    }  # fmt: skip
    return CurveConfig(**usual | change)


def page(data: Path) -> str:
    return (data / "out" / "report.html").read_text()


@pytest.mark.slow
def test_a_rerun_reads_nothing_again(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(settings(model, data))
    whole = page(data)
    assert [title in whole for title in TITLES] == [True] * 5
    assert "holds no metrics.jsonl" in whole and "wheels bench curve --model" in whole
    assert first["details"]["calls"]["counted"] == "the training split"
    assert first["details"]["reliability"]["found"]["sentences"] == len(SOURCES)
    assert sum(rate["tokens"] for rate in first["details"]["calls"]["frequency"]) == sum(
        rate["tokens"] for rate in first["details"]["calls"]["position"]
    )
    monkeypatch.setattr(reliability, "judge", None)  # calling it would fail
    assert plain_values(run(settings(model, data))) == plain_values(first)
    assert page(data) == whole


@pytest.mark.slow
def test_strict_mode_and_prices(model: Path, data: Path) -> None:
    log = model / "metrics.jsonl"
    log.write_text("".join(json.dumps({"seed": 0, "round": n, "prices": {"0.2": 2.0}}) + "\n" for n in (0, 1)))
    run(settings(model, data, mode="strict", rules=("learned",), budgets=(0.1, 0.3)))
    log.unlink()
    whole = page(data)
    assert "multiplier" in whole and "a single output cannot use more than was asked" in whole


@pytest.mark.slow
def test_outputs_are_read_again_in_batches_of_the_size_asked_for(model: Path, data: Path, monkeypatch: Any) -> None:
    read: list[int] = []
    watched = teacher_forcing._score_batch
    monkeypatch.setattr(teacher_forcing, "_score_batch", lambda pair, s, t: read.append(len(s)) or watched(pair, s, t))
    run(settings(model, data, rules=("regret",), budgets=(0.1,), batch_size=2, output=str(data / "small")))
    assert read and max(read) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("budgets", [(0.0, 1.0), pytest.param((1.0,), marks=pytest.mark.slow)])
def test_only_the_ends_leave_nothing_to_look_at(model: Path, data: Path, budgets: tuple[float, ...]) -> None:
    curve = run(settings(model, data, budgets=budgets))
    assert not any(title in page(data) for title in TITLES)
    assert curve["details"] == {"calls": None, "reliability": None}
    assert curve["at_budget"] == [] == curve["apgr_paired"]


@pytest.mark.slow
def test_without_a_trained_rule_there_is_no_prediction(model: Path, data: Path) -> None:
    curve = run(settings(model, data, rules=("random",)))
    assert "No trained rule was decoded between the ends" in page(data)
    assert curve["details"]["reliability"] is None and curve["details"]["calls"]["rule"] == "random"


@pytest.mark.slow
def test_the_scored_references_are_counted_where_nothing_else_is_there(model: Path, data: Path) -> None:
    (data / "train.jsonl").unlink()
    counted = run(settings(model, data))["details"]["calls"]["counted"]
    assert counted.startswith("the references of the scored rows")


def test_the_prediction_is_the_score_that_decided(model: Path) -> None:
    artefact, key = Artefact.load(model), PointKey("learned", 1, 0.3)
    for parameter in artefact.head(key.rule, key.seed).shift.parameters():
        parameter.data.normal_()  # untrained it is 0, and any budget would do
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    rule = calibrated(artefact, key.rule, key.budget, key.seed)
    score = HeadScore(artefact.head(key.rule, key.seed))

    def watching(step: Step) -> torch.Tensor:
        seen.append((score(step), step.regret_B))
        return score(step)

    watched = type(rule)(rule.name, watching, rule.threshold, needs_teacher=True)
    for source in SOURCES:
        seen.clear()
        trace = write(artefact.pair, [source], watched, budget=key.budget, max_new_tokens=8)[0]
        found = judge(artefact, key, ["a", source], [Record("", 0, 0, 0, 0, 0.0), Record.of(trace)], 8)
        assert found[0] == {"gain": [], "regret": []}  # an empty output has no states
        for column, values in enumerate((found[1]["gain"], found[1]["regret"])):
            assert values == pytest.approx([float(state[column]) for state in seen], abs=1e-3)
