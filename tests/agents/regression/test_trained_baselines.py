"""The rules beside the agent: what the router learns from, and how each is fitted, measured and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.seed_runs import seed_run
from tests.decoding.commands.test_calibrate import LIMIT, soft_pair, sources
from tests.decoding.tiny import write
from wheels.agents.regression import trained_baselines
from wheels.agents.regression.trained_baselines import States, collect_gains, fit_baseline, text_gains
from wheels.agents.rl.lagrangian import PriceTable
from wheels.agents.seed_run import SeedRun
from wheels.data.tasks import Row
from wheels.decoding.methods.rules import RULES
from wheels.decoding.step import Step
from wheels.metrics import sentence_scores
from wheels.models.pair import Pair
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig


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


def prepared(pair: Pair, tmp_path: Path, **settings: Any) -> tuple[SeedRun, DeferralHead, States]:
    """A run of few rows, a head that always says 1 nat, and 40 states; of the last four two have a regret."""
    run = seed_run(pair, [Row(source, "a b") for source in sources(20)], tmp_path, width=8, warm_epochs=1, **settings)
    width = feature_width(pair.student.config.hidden_size)
    head = DeferralHead(HeadConfig.of(width, pair.vocab_size, 8)).requires_grad_(False)
    head.base.weight.zero_(), head.base.bias.fill_(1.0)
    return run, head, (torch.rand(40, width), torch.tensor([1.0] * 36 + [0.0, 1.0, 0.0, 2.0]))


def noted(run: SeedRun, rule: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.metrics.path.read_text().splitlines()]
    return [line[rule] for line in lines if rule in line]


def test_the_gate_is_measured_on_the_tenth_that_it_does_not_see(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that always calls is right where there is a regret: in two of the last four. It is fitted once."""
    run, head, states = prepared(pair, tmp_path)
    seen = []

    def fit(features_NF: torch.Tensor, regret_N: torch.Tensor, settings: Any) -> DeferralHead:
        seen.append((features_NF, regret_N))
        return head

    monkeypatch.setattr(trained_baselines, "fit_gate", fit)
    other = prepared(pair, tmp_path)[1]
    other.base.bias.fill_(-1.0)
    for _ in range(2):
        fitted = fit_baseline("gate", run, other, states, 3.0)
        assert fitted.base.bias.tolist() == [1.0]
    ((features_NF, regret_N),) = seen
    assert features_NF.equal(states[0][:36]) and regret_N.equal(states[1][:36])
    assert noted(run, "gate") == [{"states": 36, "held_out_accuracy": 0.5}]
    few = (states[0][:5], states[1][:5])
    fit_baseline("gate", prepared(pair, tmp_path / "few")[0], other, few, 3.0)
    assert len(seen[1][1]) == 5
    assert noted(prepared(pair, tmp_path / "few")[0], "gate") == [{"states": 5, "held_out_accuracy": None}]


def test_the_router_is_fitted_to_nine_texts_in_ten(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, head, states = prepared(pair, tmp_path)
    features_NF, gain_N = states[0][:20], torch.arange(20.0)
    seen = []
    monkeypatch.setattr(trained_baselines, "collect_gains", lambda run: (features_NF, gain_N))
    monkeypatch.setattr(trained_baselines, "fit_router", lambda *given: seen.append(given) or head)
    fit_baseline("router", run, head, states, 3.0)
    assert seen[0][0].equal(features_NF[:18]) and seen[0][1].equal(gain_N[:18])
    # It says 1 where 18 and 19 are gained: 1 - (17^2 + 18^2) / 2 / (1/4).
    assert noted(run, "router") == [{"texts": 18, "held_out_r2": pytest.approx(-1225.0)}]


def test_reinforce_is_paid_in_nats_and_begins_at_prices_that_keep_the_budgets(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text with a score of S points earns S / kappa nats."""
    run, head, states = prepared(pair, tmp_path, budgets=(0.2, 0.5), reinforce_texts=512)
    earned = []

    def train(env: Any, trained: DeferralHead, table: PriceTable, settings: Any, *_: Any) -> None:
        assert (settings.rounds, table.budgets) == (2, (0.2, 0.5))
        for budget, price in zip(table.budgets, table.prices, strict=True):
            assert float(torch.sigmoid(torch.tensor((1.0 - price) / settings.alpha))) == pytest.approx(budget, abs=1e-4)
        env.reset(seed=0)
        while len(earned) < 5:
            _, reward_B, _, _, info = env.step([0] * env.num_envs)
            ended = np.flatnonzero(info.get("_score", ()))
            earned.extend((reward_B[row], info["score"][row]) for row in ended)
        trained.base.bias.data.fill_(5.0)

    monkeypatch.setattr(trained_baselines, "reinforce", train)
    assert fit_baseline("reinforce", run, head, states, kappa=4.0).base.bias.tolist() == [5.0]
    assert head.base.bias.tolist() == [1.0]
    assert any(score for _, score in earned)
    assert all(reward == pytest.approx(score / 4.0) for reward, score in earned)
