"""Losses: hand-computed values, closed forms of torch, and TRL's loss as an oracle in value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from trl.experimental.gkd import GKDTrainer

from wheels.distillation.losses import (
    IGNORED,
    cross_entropy,
    distillation_loss,
    forward_kl,
    jsd,
    reverse_kl,
    target_log_probs,
)
from wheels.errors import WheelsError

N, V = 7, 11
# float32 sums of 11 terms in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return 3 * torch.randn(N, V, generator=generator), 3 * torch.randn(N, V, generator=generator)


def value_and_gradient(loss, student: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = student.clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def test_hand_computed_two_words():
    """q = (1/2, 1/2), p = (3/4, 1/4)."""
    q, p = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert forward_kl(q, p).item() == pytest.approx(forward, abs=1e-6)
    assert reverse_kl(q, p).item() == pytest.approx(reverse, abs=1e-6)
    assert abs(forward - reverse) > 0.01, "the two directions must differ, or the test sees no mix-up"
    m = (0.625, 0.375)
    halves = 0.5 * (0.75 * math.log(0.75 / m[0]) + 0.25 * math.log(0.25 / m[1]))
    halves += 0.5 * (0.5 * math.log(0.5 / m[0]) + 0.5 * math.log(0.5 / m[1]))
    assert jsd(q, p, 0.5).item() == pytest.approx(halves, abs=1e-6)
    assert cross_entropy(q, torch.tensor([1])).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_full_vocabulary_equals_torch(logits, temperature):
    q, p = logits
    log_q, log_p = (functional.log_softmax(x / temperature, -1) for x in (q, p))
    expected = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(forward_kl(q, p, temperature), expected, **CLOSE)
    expected = functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(reverse_kl(q, p, temperature), expected, **CLOSE)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("objective", "beta"), [("kl", 0.0), ("rkl", 1.0), ("jsd", 0.5), ("jsd", 0.1), ("jsd", 0.9)])
def test_agrees_with_trl(logits, objective, beta, temperature):
    """TRL: the same beta, no T^2, and `batchmean` over unmasked tokens is our average over them."""
    q, p = logits
    labels = torch.tensor([[4, IGNORED, 1, 2, IGNORED, 0, 3]])
    trl = value_and_gradient(
        lambda x: GKDTrainer.generalized_jsd_loss(x[None], p[None], labels, beta=beta, temperature=temperature), q
    )

    def ours(x: torch.Tensor) -> torch.Tensor:
        kept_N = labels[0] != IGNORED
        return distillation_loss(
            x[kept_N], p[kept_N], labels[0, kept_N], objective=objective, beta=beta, temperature=temperature
        )

    value, gradient = value_and_gradient(ours, q)
    torch.testing.assert_close(value, temperature**2 * trl[0], **CLOSE)
    torch.testing.assert_close(gradient, temperature**2 * trl[1], **CLOSE)
    other = GKDTrainer.generalized_jsd_loss(q[None], p[None], labels, beta=1 - beta, temperature=temperature)
    if beta != 0.5:
        assert abs(temperature**2 * other - value) > 1e-3, "the other convention of beta must miss"


def test_jsd_is_between_its_ends(logits):
    q, p = logits
    torch.testing.assert_close(jsd(q, p, 0.0), forward_kl(q, p))
    torch.testing.assert_close(jsd(q, p, 1.0), reverse_kl(q, p))
    torch.testing.assert_close(
        jsd(q.double(), p.double(), 1e-7) / 1e-7, forward_kl(q.double(), p.double()), rtol=1e-3, atol=0
    )
    assert (jsd(q, p, 0.5) <= math.log(2)).all()
    torch.testing.assert_close(jsd(q, p, 0.5), jsd(p, q, 0.5))


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jsd])
def test_divergence_of_equals_is_zero_with_no_gradient(logits, divergence):
    q, _ = logits
    value, gradient = value_and_gradient(lambda x: divergence(x, q).sum(), q)
    assert abs(value) < 1e-5
    assert gradient.abs().max() < 1e-5


def test_temperature_squared_keeps_the_gradient(logits):
    """For T to infinity T^2 * gradient of KL tends to (logits_q - logits_p) / V, centred: Hinton et al., equation 4."""
    q, p = logits
    _, gradient = value_and_gradient(
        lambda x: distillation_loss(x, p, torch.zeros(N, dtype=torch.long), temperature=1000.0, num_items=1), q
    )
    difference = (q - q.mean(-1, keepdim=True) - p + p.mean(-1, keepdim=True)) / V
    torch.testing.assert_close(gradient, difference, rtol=0.05, atol=0.01)


def test_w_mixes(logits):
    q, p = logits
    labels = torch.arange(N)
    hard = distillation_loss(q, p, labels, objective="kl", temperature=2.0, w=0.0)
    soft = distillation_loss(q, p, labels, objective="kl", temperature=2.0, w=1.0)
    both = distillation_loss(q, p, labels, objective="kl", temperature=2.0, w=0.25)
    torch.testing.assert_close(both, 0.75 * hard + 0.25 * soft, **CLOSE)
    torch.testing.assert_close(hard, functional.cross_entropy(q, labels), **CLOSE)
    torch.testing.assert_close(hard, distillation_loss(q, None, labels, objective="ce"), **CLOSE)
    torch.testing.assert_close(hard, distillation_loss(q, None, labels, objective="seqkd", w=0.3), **CLOSE)


def test_num_items_is_the_denominator(logits):
    q, p = logits
    labels = torch.arange(N)
    parts = [distillation_loss(q[a:b], p[a:b], labels[a:b], w=0.5, num_items=N) for a, b in ((0, 2), (2, 7))]
    torch.testing.assert_close(sum(parts), distillation_loss(q, p, labels, w=0.5), **CLOSE)


@pytest.mark.parametrize("objective", ["ce", "kl", "rkl", "jsd"])
def test_no_targets_give_zero_and_a_gradient_of_zero(logits, objective):
    q, p = logits
    none = torch.empty(0, dtype=torch.long)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return distillation_loss(x[none], p[none], none, objective=objective, w=0.5)

    value, gradient = value_and_gradient(loss, q)
    assert value == 0.0
    assert (gradient == 0.0).all()


def test_one_token(logits):
    q, p = logits
    one = distillation_loss(q[:1], p[:1], torch.tensor([2]), objective="kl")
    torch.testing.assert_close(one, forward_kl(q, p)[0])


@pytest.mark.parametrize("objective", ["kl", "rkl", "jsd"])
def test_impossible_tokens_stay_finite(logits, objective):
    """Both laws give a padded id probability 0, as Marian's bias does: 0 * log 0 is 0, and no gradient is nan."""
    q, p = (torch.cat([x, torch.full((N, 1), -torch.inf)], dim=-1) for x in logits)
    labels = torch.arange(N)
    value, gradient = value_and_gradient(lambda x: distillation_loss(x, p, labels, objective=objective), q)
    torch.testing.assert_close(value, distillation_loss(*logits, labels, objective=objective), **CLOSE)
    assert gradient.isfinite().all()


def test_the_log_probabilities_of_labels_by_hand():
    """Token 0 is a token as any other, and what is not there counts 0."""
    logits_NV = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    log_p_BT = target_log_probs(logits_NV, torch.tensor([0, 2]), torch.tensor([[True, False, True]]))
    expected = [1 - math.log(math.exp(1) + math.exp(2) + math.exp(3)), 0.0, -math.log(math.exp(2) + 2)]
    assert log_p_BT[0].tolist() == pytest.approx(expected)


def test_refuses(logits):
    q, p = logits
    with pytest.raises(WheelsError, match=r"one shape, got \[7, 11\] and \[7, 10\]"):
        forward_kl(q, p[:, :10])
    with pytest.raises(WheelsError, match=r"beta must be in \[0, 1\], got 2"):
        jsd(q, p, 2.0)
    with pytest.raises(WheelsError, match=r"beta must be in \[0, 1\], got -0.5"):
        jsd(q, p, -0.5)
    with pytest.raises(WheelsError, match="temperature must be above 0, got 0"):
        reverse_kl(q, p, 0.0)
