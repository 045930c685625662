"""What the router learns from: whole texts of both models, scored, and the student's first state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.agents.seed_runs import seed_run
from tests.decoding.commands.test_calibrate import LIMIT, soft_pair, sources
from tests.decoding.tiny import write
from wheels.agents.regression import trained_baselines
from wheels.agents.regression.trained_baselines import collect_gains, text_gains
from wheels.data.tasks import Row
from wheels.decoding.methods.rules import RULES
from wheels.decoding.step import Step
from wheels.metrics import sentence_scores
from wheels.models.pair import Pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return soft_pair()


class FirstStates:
    """A rule that keeps the features of first states and never calls."""

    name, needs_teacher = "first", False

    def __init__(self) -> None:
        self.features: list[torch.Tensor] = []

    def __call__(self, step: Step) -> torch.Tensor:
        self.features += list(step.features_BF[step.position_B == 0])
        return step.position_B < 0


def texts(pair: Pair, budget: float, rows: list[str]) -> list[str]:
    rule = RULES["random"].at(1.0 - budget)
    return [trace.text for trace in write(pair, rows, rule, budget=budget, max_new_tokens=LIMIT)]


def test_a_gain_is_the_teachers_score_minus_the_students(pair: Pair) -> None:
    rows = sources(6)
    student, teacher = texts(pair, 0.0, rows), texts(pair, 1.0, rows)
    # The teacher is right in the first half of the rows, the student in the others.
    targets = teacher[:3] + student[3:]
    _, gain_N = text_gains(pair, [Row(*row) for row in zip(rows, targets, strict=True)], "chrf", LIMIT, 4)
    other = sentence_scores("chrf", student[:3] + teacher[3:], targets)
    assert gain_N.tolist() == pytest.approx([100 - x for x in other[:3]] + [x - 100 for x in other[3:]], abs=1e-3)
    assert (gain_N[:3] > 0).any() and (gain_N[3:] < 0).any()


def test_the_features_are_those_of_the_state_in_which_the_rule_is_asked(pair: Pair) -> None:
    rows = sources(5)
    features_NF, _ = text_gains(pair, [Row(row, "a b") for row in rows], "chrf", LIMIT, 4)
    for row, features_F in zip(rows, features_NF, strict=True):
        rule = FirstStates()
        write(pair, [row], rule, budget=0.5, max_new_tokens=LIMIT)
        (asked_F,) = rule.features
        assert torch.allclose(features_F, asked_F.float(), atol=1e-5)


@pytest.mark.parametrize(("asked", "sizes"), [(3, [3]), (7, [4, 3]), (100, [4, 4, 2]), (8, [4, 4])])
def test_as_many_rows_are_read_as_asked_for_and_none_twice(
    asked: int, sizes: list[int], pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(pair: Pair, rows: list[Row], *more: Any) -> Any:
        read.append(len(rows))
        return text_gains(pair, rows, *more)

    monkeypatch.setattr(trained_baselines, "CHUNK", 4)
    monkeypatch.setattr(trained_baselines, "text_gains", counted)
    rows = [Row(source, "a b") for source in sources(10)]
    for _ in range(2):
        found = collect_gains(seed_run(pair, rows, tmp_path, router_rows=asked))
    assert read == sizes, "the second time all of it is there"
    assert len(found[0]) == len(found[1]) == sum(sizes)
    whole = text_gains(pair, rows[: sum(sizes)], "chrf", LIMIT, 4)
    assert torch.allclose(found[0], whole[0], atol=1e-5) and found[1].tolist() == pytest.approx(whole[1].tolist())
