"""Distillation losses against a teacher's top-k probabilities and the total mass of the rest.

Of the vocabulary's V outcomes, k tokens stay as they are and the V - k others become one more, `rest`:

    p'(v) = p_T(v) for v among the k,   p'(rest) = sum of p_T(v) over the others;   q' from q_T in the same way.

Both are distributions of k + 1 outcomes that sum to 1, so a divergence of them is a true one: not negative, and 0 only
where they are equal. Merging outcomes is a map that both distributions go through, so by the data-processing inequality
(Cover & Thomas, Elements of Information Theory, 2.8; Csiszar 1967 for every f-divergence, as kl, rkl and jsd are)

    D(p', q') <= D(p_T, q_T),     with equality at k = V, or where p_T / q_T is constant over the others.

Top-k renormalised without a rest has no such bound: it ignores the mass that the student gives to other tokens.

Axes: N target positions, V vocabulary, K likeliest tokens, J = K + 1 outcomes, the rest last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wheels.distillation.losses import divergence, mixed, precise


@dataclass(frozen=True)
class TopKDistribution:
    """A teacher's distribution at one temperature: k tokens and the rest."""

    ids_NK: torch.Tensor | None
    """The K tokens that stay, int64, none twice in a row; None: all tokens, in their order, and no rest."""
    outcomes_NJ: torch.Tensor
    """Logits of the outcomes at that temperature, up to a constant of each row: `p' = softmax(outcomes)`."""


def topk_with_rest(logits_NV: torch.Tensor, ids_NK: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return logits of the J outcomes, [N, J]: `logits(v) / T` of the k tokens, then of the rest.

    The rest's is `logsumexp` over the others, not `log(1 - sum)` of what stays, which loses every digit where the rest
    is unlikely. Where nothing is left over (k = V) it is the lowest number of the format: exactly probability 0.
    """
    assert logits_NV.shape[:1] == ids_NK.shape[:1], (logits_NV.shape, ids_NK.shape)
    scaled_NV = precise(logits_NV) if temperature == 1.0 else precise(logits_NV) / temperature
    # A finite number, for the gradient of a logsumexp over nothing but -inf is nan.
    others_NV = scaled_NV.scatter(-1, ids_NK, torch.finfo(scaled_NV.dtype).min)
    return torch.cat([scaled_NV.gather(-1, ids_NK), others_NV.logsumexp(dim=-1, keepdim=True)], dim=-1)


def topk_loss(
    student_logits_NV: torch.Tensor,
    teacher: TopKDistribution,
    labels_N: torch.Tensor,
    *,
    objective: str = "kl",
    temperature: float = 1.0,
    w: float = 1.0,
    beta: float = 0.5,
    num_items: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `losses.distillation_loss` with the divergence of the merged distributions, a scalar.

    Args:
        student_logits_NV: logits of q at the N target positions.
        teacher: the distribution of p at the same positions, at this very temperature.
        labels_N: the target tokens; their cross-entropy is that of the whole vocabulary.
        objective: `kl`, `rkl` or `jsd`.
        temperature: T > 0.
        w: weight in [0, 1] of the divergence.
        beta: of `jsd`.
        num_items: the target tokens of the whole accumulated batch; None: N.
    """
    divergence_N = topk_divergence(student_logits_NV, teacher, objective, temperature, beta)
    return mixed(divergence_N, student_logits_NV, labels_N, temperature=temperature, w=w, num_items=num_items)


def topk_divergence(
    student_logits_NV: torch.Tensor,
    teacher: TopKDistribution,
    objective: str = "kl",
    temperature: float = 1.0,
    beta: float = 0.5,
) -> torch.Tensor:
    """Return the divergence of the merged distributions of each row, shape [N]. No factor T^2."""
    if teacher.ids_NK is None:
        outcomes_NJ = precise(student_logits_NV) / temperature
    else:
        outcomes_NJ = topk_with_rest(student_logits_NV, teacher.ids_NK, temperature)
    # Both sides are at T already.
    return divergence(objective, outcomes_NJ, teacher.outcomes_NJ, beta=beta)
