"""`wheels train --train student`, whole: the student moves, is saved and used; a killed run ends in the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.agents.test_run import config as config  # the fixture
from tests.decoding.tiny import write
from wheels.agents.config import TrainConfig
from wheels.agents.rl import student
from wheels.agents.run import run
from wheels.data.tasks import load_task
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.trace import teacher_use
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.models.loading import model_digest
from wheels.models.pair import Pair


@pytest.fixture
def taught(config: TrainConfig) -> TrainConfig:
    return replace(config, train="student", seeds=1, baselines=(), output=f"{config.output}-taught")


def made(config: TrainConfig) -> dict[str, bytes]:
    names = ("model.safetensors", "deferral/model.safetensors", "metrics.jsonl")
    return {name: (Path(config.output) / name).read_bytes() for name in names}


def lines_of(config: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_student_moves_and_the_head_alone_leaves_it(config: TrainConfig, taught: TrainConfig) -> None:
    head = replace(config, seeds=1, baselines=())
    run(head)
    run(taught)
    before = Pair.load(head.student, head.teacher).student.state_dict()
    alone, moved = (Artefact.load(each.output).pair.student.state_dict() for each in (head, taught))
    assert all(before[name].equal(alone[name]) for name in before)
    assert not any(before[name].equal(moved[name]) for name in before)
    assert model_digest(head.output) != model_digest(taught.output)


@pytest.mark.slow
def test_what_is_noted_of_the_turns(taught: TrainConfig) -> None:
    run(replace(taught, student_texts=160, student_epochs=20, student_learning_rate=5e-3))
    lines = lines_of(taught)
    turns = [line for line in lines if "divergence" in line]
    assert [line["turn"] for line in turns] == [1, 2]
    assert all(line["divergence"] < line["divergence_before"] for line in turns)
    assert all(0 < line["written"] < 1 for line in turns)
    assert [line.get("turn") for line in lines if "warm_start" in line] == [1, 2, None], "a gate of each student"
    assert all(line["teacher_tokens"] > 0 for line in lines)


@pytest.mark.slow
def test_all_that_the_teacher_judged_is_counted(config: TrainConfig) -> None:
    """States come in whole texts, so that more are judged than the warm start is fitted to."""
    run(replace(config, seeds=1, baselines=(), rounds=0, states=20))
    line = next(line for line in lines_of(config) if "warm_start" in line)
    assert line["warm_start"]["states"] == 18 and line["teacher_tokens"] > 20


@pytest.mark.slow
def test_its_thresholds_are_those_of_the_new_student(taught: TrainConfig) -> None:
    run(replace(taught, calibrate=True, calibration_budgets=(0.5,), texts=40, student_texts=40))
    artefact = Artefact.load(taught.output)
    rows = [row.source for row in load_task(taught.data).validation]
    traces = write(artefact.pair, rows, calibrated(artefact, "learned", 0.5), max_new_tokens=8)
    assert teacher_use(traces) == pytest.approx(0.5, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["in the middle of a turn", "after it"])
def test_a_killed_run_ends_in_the_same_bytes(
    taught: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    whole = replace(taught, output=str(tmp_path / "whole"))
    run(whole)
    once, done = student.teach, []

    def killed(*more: Any) -> None:
        done.append(more)
        if len(done) == 2 and before:
            raise KeyboardInterrupt
        once(*more)
        if len(done) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(student, "teach", killed)
        with pytest.raises(KeyboardInterrupt):
            run(taught)
    taught_again = []
    monkeypatch.setattr(student, "teach", lambda *more: (taught_again.append(more), once(*more)))
    run(taught)
    assert len(taught_again) == 1, "the first turn is read"
    assert made(taught) == made(whole)


def test_one_run_makes_one_student(taught: TrainConfig) -> None:
    with pytest.raises(WheelsError, match=r"train 'student' gives one student, got seeds 3; run it once for each seed"):
        replace(taught, seeds=3)
    with pytest.raises(WheelsError, match=r"needs dtype float32, in which the student learns, got 'bfloat16'"):
        replace(taught, dtype="bfloat16")
