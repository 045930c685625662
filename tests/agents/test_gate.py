"""The gate and the worth of its steps, by hand-computed values; the wrong credit, measured."""

from __future__ import annotations

import math

import pytest
import torch

from tests.agents.rl.reference import CREDITS, credited_call, gate_value, unified
from wheels.agents import gate as rewards

LN2, LN4 = math.log(2), math.log(4)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("logit", "log_write", "log_call"),
    [(0.0, -LN2, -LN2), (math.log(3), -LN4, math.log(0.75)), (200.0, -200.0, 0.0), (-200.0, 0.0, -200.0)],
)
def test_gate_log_probs(logit: float, log_write: float, log_call: float) -> None:
    assert torch.stack(rewards.gate_log_probs(tensor(logit))).flatten().tolist() == pytest.approx([log_write, log_call])


def test_gate_log_probs_have_a_finite_gradient_where_the_gate_has_saturated() -> None:
    logit = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4], requires_grad=True)
    sum(part.sum() for part in rewards.gate_log_probs(logit)).backward()
    assert torch.isfinite(logit.grad).all()


def test_trust_region_is_the_divergence_of_the_gate_from_its_reference() -> None:
    logit, reference = torch.randn(2, 7, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=logit), torch.distributions.Bernoulli(logits=reference)
    )
    torch.testing.assert_close(rewards.trust_region(logit, reference), expected)
    assert rewards.trust_region(logit, logit).tolist() == [0.0] * 7
    half_to_quarter = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert rewards.trust_region(tensor(0.0), tensor(-math.log(3))).item() == pytest.approx(half_to_quarter)


def test_trust_region_moves_the_gate_and_not_its_reference() -> None:
    logit, reference = torch.tensor([1.0], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    rewards.trust_region(logit, reference).sum().backward()
    assert logit.grad.item() > 0 and reference.grad is None


def test_unified_value_and_policy_of_two_actions_are_the_gate() -> None:
    alpha, write_value, gain = 0.3, tensor(-1.0, 0.5, 2.0), tensor(0.7, 0.0, -40.0)
    value, log_pi = unified(torch.stack([write_value, write_value + gain], -1), alpha)
    torch.testing.assert_close(gate_value(write_value, gain / alpha, alpha), value)
    torch.testing.assert_close(torch.stack(rewards.gate_log_probs(gain / alpha), -1), log_pi)
    assert value[1].item() == pytest.approx(0.5 + alpha * LN2)
    assert value[2].item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("log_p", "log_q", "log_write", "alpha", "expected"),
    [
        (-1.0, -2.0, 0.0, 1.0, 1.0),
        (-1.0, -2.0, -LN2, 0.5, 1.0 + 0.5 * LN2),
        (-1000.0, -2.0, 0.0, 1.0, -18.0),  # floored
        (-math.inf, 0.0, 0.0, 1.0, -20.0),
        (0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_token_reward(log_p: float, log_q: float, log_write: float, alpha: float, expected: float) -> None:
    assert rewards.token_reward(tensor(log_p), tensor(log_q), tensor(log_write), alpha).item() == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    ("regret", "log_write", "alpha", "expected"),
    [(0.0, 0.0, 1.0, 0.0), (1.5, -LN2, 0.5, -1.5 + 0.5 * LN2), (math.inf, 0.0, 1.0, -20.0)],
)
def test_regret_reward(regret: float, log_write: float, alpha: float, expected: float) -> None:
    assert rewards.regret_reward(tensor(regret), tensor(log_write), alpha).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("price", "cost", "log_call", "alpha", "credit", "expected"),
    [
        (2.0, 1.0, 0.0, 1.0, "consistent", -2.0),
        (2.0, 3.0, -LN2, 0.5, "consistent", -6.0 + 0.5 * LN2),
        (0.0, 1.0, 0.0, 1.0, "consistent", 0.0),
        (2.0, 1.0, 0.0, 1.0, "sampled", -3.5),
    ],
)
def test_call_reward(price: float, cost: float, log_call: float, alpha: float, credit: str, expected: float) -> None:
    reward = credited_call(price, tensor(cost), tensor(log_call), alpha, tensor(-1.5), credit)
    assert reward.item() == pytest.approx(expected)


def test_each_row_has_its_own_price() -> None:
    price_B1, cost_BT = torch.tensor([[1.0], [2.0]]), torch.ones(2, 3)
    reward_BT = rewards.call_reward(price_B1, cost_BT, torch.zeros(2, 3), 1.0)
    assert reward_BT.tolist() == [[-1.0] * 3, [-2.0] * 3]


def test_rewards_refuse_what_they_cannot_mean() -> None:
    zero = torch.zeros(2)
    with pytest.raises(ValueError, match=r"log_q_chosen must have the shape of log_p_chosen, \(2,\), got \(2, 1\)"):
        rewards.token_reward(zero, zero[:, None], zero, 1.0)
    with pytest.raises(ValueError, match=r"log_gate_write must have the shape of regret"):
        rewards.regret_reward(zero, zero[:, None], 1.0)


def law_of_entropy(entropy: float, top: int = 0) -> torch.Tensor:
    """Log-probabilities of three tokens, sharp at `top`, with the given entropy (bisection on the sharpness)."""
    low, high = 0.0, 30.0
    for _ in range(100):
        log_p = torch.log_softmax((low + high) / 2 * torch.nn.functional.one_hot(torch.tensor(top), 3).double(), 0)
        low, high = ((low + high) / 2, high) if -(log_p.exp() @ log_p) > entropy else (low, (low + high) / 2)
    return log_p


def call_probability(log_p: torch.Tensor, log_q: torch.Tensor, credit: str, price: float = 1.0) -> float:
    """g at the optimum of a one-step text: expectations of our rewards without the gate's own entropy."""
    zero = torch.zeros(3, dtype=torch.float64)
    write = log_q.exp() @ rewards.token_reward(log_p, log_q, zero, 1.0)
    call = log_p.exp() @ credited_call(price, zero + 1, zero, 1.0, log_p, credit)
    return float(torch.sigmoid(call - write))


def test_sampled_credit_prefers_a_confident_teacher_and_ours_does_not() -> None:
    """With a student that is the teacher there is nothing to gain anywhere; price 1 nat, entropy weight 1."""
    sure, unsure = law_of_entropy(0.38), law_of_entropy(1.05)
    assert call_probability(sure, sure, "sampled") == pytest.approx(0.20, abs=0.005)
    assert call_probability(unsure, unsure, "sampled") == pytest.approx(0.11, abs=0.005)
    for log_p in (sure, unsure):
        assert call_probability(log_p, log_p, "consistent") == pytest.approx(1 / (1 + math.e))


def test_our_credit_calls_where_the_student_is_wrong_and_the_sampled_one_where_the_teacher_is_sure() -> None:
    sure, unsure, wrong = law_of_entropy(0.38), law_of_entropy(1.05), law_of_entropy(0.9, top=1)
    divergence = float(wrong.exp() @ (wrong - unsure))
    assert 0.1 < divergence < 1.05 - 0.38
    right_student = {credit: call_probability(sure, sure, credit) for credit in CREDITS}
    wrong_student = {credit: call_probability(unsure, wrong, credit) for credit in CREDITS}
    assert wrong_student["consistent"] > right_student["consistent"] + 0.03
    assert wrong_student["sampled"] < right_student["sampled"] - 0.03
