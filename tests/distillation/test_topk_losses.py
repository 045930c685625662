"""Losses on merged laws: against the full ones, against laws merged by hand, and below what they bound."""

from __future__ import annotations

import math

import pytest
import torch

from wheels.distillation.losses import distillation_loss, divergence
from wheels.distillation.topk_losses import TopKDistribution, topk_divergence, topk_loss, topk_with_rest

N, V = 6, 9
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
OBJECTIVES = [("kl", 0.5), ("rkl", 0.5), ("jsd", 0.5), ("jsd", 0.1)]


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    q, p = (3 * torch.randn(N, V, generator=generator, dtype=torch.float64) for _ in range(2))
    return q, p


def law(p: torch.Tensor, k: int, temperature: float) -> TopKDistribution:
    ids = p.topk(k, dim=-1).indices
    return TopKDistribution(ids, topk_with_rest(p, ids, temperature))


def by_hand(p: torch.Tensor, ids: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probabilities of the k tokens and of the rest, row by row, added up one by one."""
    rows = []
    for logit, kept in zip(p.tolist(), ids.tolist(), strict=True):
        mass = [math.exp(x / temperature) for x in logit]
        total = sum(mass)
        rows.append([mass[v] / total for v in kept] + [sum(m for v, m in enumerate(mass) if v not in kept) / total])
    return torch.tensor(rows, dtype=torch.float64)


def plain(objective: str, beta: float, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The divergence of two laws given as probabilities."""

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a / b).log()).sum(-1)

    if objective == "jsd":
        m = beta * p + (1 - beta) * q
        return beta * kl(p, m) + (1 - beta) * kl(q, m)
    return kl(p, q) if objective == "kl" else kl(q, p)


def value_and_gradient(loss, student: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = student.clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0])
@pytest.mark.parametrize(("objective", "beta"), OBJECTIVES)
@pytest.mark.parametrize("whole", ["every token kept", "no ids"])
def test_the_whole_vocabulary_is_the_full_loss(logits, objective, beta, temperature, whole):
    q, p = logits
    labels = torch.arange(N)
    teacher = law(p, V, temperature) if whole == "every token kept" else TopKDistribution(None, p / temperature)
    settings = {"objective": objective, "beta": beta, "temperature": temperature, "w": 0.7}
    value, gradient = value_and_gradient(lambda x: topk_loss(x, teacher, labels, **settings), q)
    full, its_gradient = value_and_gradient(lambda x: distillation_loss(x, p, labels, **settings), q)
    torch.testing.assert_close(value, full, **CLOSE)
    torch.testing.assert_close(gradient, its_gradient, **CLOSE)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize(("objective", "beta"), OBJECTIVES)
def test_few_tokens_are_the_law_merged_by_hand(logits, objective, beta, k, temperature):
    q, p = logits
    teacher = law(p, k, temperature)
    p_hand, q_hand = (by_hand(x, teacher.ids_NK, temperature) for x in (p, q))
    torch.testing.assert_close(teacher.outcomes_NJ.softmax(-1), p_hand, **CLOSE)
    found = topk_divergence(q, teacher, objective, temperature, beta)
    torch.testing.assert_close(found, plain(objective, beta, p_hand, q_hand), **CLOSE)
    if temperature == 1.0:
        assert topk_divergence(q, teacher, objective, beta=beta).equal(found), "the temperature is 1 unless told"


@pytest.mark.parametrize(("objective", "beta"), OBJECTIVES)
def test_gradient_is_that_of_the_merged_divergence(logits, objective, beta):
    """By finite differences."""
    q, p = logits
    teacher = law(p, 3, 2.0)
    leaf = q.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: topk_divergence(x, teacher, objective, 2.0, beta).sum(), leaf)


@pytest.mark.parametrize(("objective", "beta"), OBJECTIVES)
def test_merging_never_adds_divergence(objective, beta):
    """Data processing: the coarser, the less; a top-k that is normalised anew breaks it."""
    generator = torch.Generator().manual_seed(1)
    q, p = (4 * torch.randn(400, V, generator=generator, dtype=torch.float64) for _ in range(2))
    last = torch.zeros(400, dtype=torch.float64)
    for k in range(1, V + 1):
        found = topk_divergence(q, law(p, k, 2.0), objective, 2.0, beta)
        assert (found >= last - 1e-12).all()
        assert k == V or (found > last + 1e-3).any(), "V - 1 tokens leave a rest of one, and lose nothing"
        last = found
    torch.testing.assert_close(last, divergence(objective, q, p, 2.0, beta), **CLOSE)
    ids = p.topk(2, dim=-1).indices
    renormalised = divergence(objective, q.gather(-1, ids), p.gather(-1, ids), 2.0, beta)
    assert (renormalised > divergence(objective, q, p, 2.0, beta) + 0.01).any(), "the wrong variant is no lower bound"


def test_without_the_rest_the_student_may_do_as_it_likes(logits):
    """Mass that q gives to other tokens costs it; the law without a rest does not see it."""
    _, p = logits
    ids = p.topk(2, dim=-1).indices
    q = p.clone()
    others = torch.ones(N, V, dtype=torch.bool).scatter(-1, ids, False)
    q[others] += 5.0
    assert (topk_divergence(q, law(p, 2, 1.0)) > 0.5).all()
    torch.testing.assert_close(divergence("kl", q.gather(-1, ids), p.gather(-1, ids)), torch.zeros(N).double(), **CLOSE)


@pytest.mark.parametrize("objective", ["kl", "rkl", "jsd"])
def test_impossible_tokens_and_an_unlikely_rest_stay_finite(logits, objective):
    """In float32, where `1 - sum of the kept` would be 0: the rest has e^-40 of the mass, or none at all."""
    q, p = (x.float() for x in logits)
    ids = p.topk(3, dim=-1).indices
    for low in (-40.0, -torch.inf):
        sharp_p, sharp_q = (torch.full_like(x, low).scatter(-1, ids, x.gather(-1, ids)) for x in (p, q))
        teacher = TopKDistribution(ids, topk_with_rest(sharp_p, ids))
        if low > -torch.inf:
            rest = teacher.outcomes_NJ.log_softmax(-1)[:, -1]
            exact = sharp_p.double().log_softmax(-1).scatter(-1, ids, -torch.inf).logsumexp(-1)
            torch.testing.assert_close(rest.double(), exact, rtol=1e-5, atol=1e-5)
        value, gradient = value_and_gradient(
            lambda x, t=teacher: topk_loss(x, t, ids[:, 0], objective=objective), sharp_q
        )
        full = distillation_loss(sharp_q, sharp_p, ids[:, 0], objective=objective)
        torch.testing.assert_close(value, full, rtol=1e-4, atol=1e-5)
        assert gradient.isfinite().all()


def test_mixture_and_denominator_are_those_of_the_full_loss(logits):
    q, p = logits
    labels = torch.arange(N)
    teacher = law(p, 4, 2.0)
    both = topk_loss(q, teacher, labels, temperature=2.0, w=0.25, num_items=3)
    soft = 4.0 * topk_divergence(q, teacher, "kl", 2.0).sum()
    hard = torch.nn.functional.cross_entropy(q, labels, reduction="sum")
    torch.testing.assert_close(both, (0.25 * soft + 0.75 * hard) / 3, **CLOSE)
