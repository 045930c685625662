"""The gate by hand-computed values and by torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch

from wheels.agents.gate import gate_entropy, gate_log_probs

LN2, LN4 = math.log(2), math.log(4)


@pytest.mark.parametrize(
    ("logit", "log_write", "log_call"),
    [(0.0, -LN2, -LN2), (math.log(3), -LN4, math.log(0.75)), (200.0, -200.0, 0.0), (-200.0, 0.0, -200.0)],
)
def test_gate_log_probs(logit: float, log_write: float, log_call: float) -> None:
    found = torch.stack(gate_log_probs(torch.tensor([logit], dtype=torch.float64)))
    assert found.flatten().tolist() == pytest.approx([log_write, log_call])


def test_gate_log_probs_have_a_finite_gradient_where_the_gate_has_saturated() -> None:
    logit = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4], requires_grad=True)
    sum(part.sum() for part in gate_log_probs(logit)).backward()
    assert torch.isfinite(logit.grad).all()


def test_the_entropy_is_that_of_a_bernoulli() -> None:
    logit = torch.linspace(-9, 9, 19, dtype=torch.float64)
    torch.testing.assert_close(gate_entropy(logit), torch.distributions.Bernoulli(logits=logit).entropy())
    assert gate_entropy(torch.tensor([-1e4, 1e4])).tolist() == [0.0, 0.0]
