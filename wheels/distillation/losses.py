"""Losses of static distillation: pure functions of logits and labels.

Every function takes the states that predict a target and works on log-probabilities in float32 (float64 stays).
Notation: p teacher, q student, `p_T = softmax(logits_p / T)`, natural logarithms, so a divergence is in nats. With `D`
one of the divergences,

    L = 1/M sum_n [ (1 - w) * CE(y_n, q) + w * T^2 * D(p_T, q_T) ]                      (Hinton et al. 2015, 1503.02531)

where M counts the target tokens of the whole accumulated batch. The factor T^2 keeps the size of the gradient when T
changes: that of `D(p_T, q_T)` shrinks like 1/T^2. TRL's losses leave the factor out.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from wheels.errors import WheelsError

IGNORED = -100
"""The label of a position that is no target: prompts and padding."""
# exp() of this is exactly 0 in every float format, so 0 * log 0 is 0 and gradients stay finite where a logit is -inf.
LOG_ZERO = -1e4


def target_log_probs(logits_NV: torch.Tensor, targets_N: torch.Tensor, chosen_BT: torch.Tensor) -> torch.Tensor:
    """Return `log p(y)` of the N targets where they are predicted, [B, T], in nats; 0 elsewhere."""
    log_p_N = -cross_entropy(logits_NV, targets_N)
    return log_p_N.new_zeros(chosen_BT.shape).masked_scatter(chosen_BT, log_p_N)


def cross_entropy(student_logits_NV: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Return `-log q(y)` of each row, shape [N], in nats."""
    assert student_logits_NV.shape[:1] == labels_N.shape, (student_logits_NV.shape, labels_N.shape)
    return functional.cross_entropy(precise(student_logits_NV), labels_N, reduction="none")


def forward_kl(
    student_logits_NV: torch.Tensor, teacher_logits_NV: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return `KL(p_T || q_T) = sum_v p_T(v) [log p_T(v) - log q_T(v)]` of each row, shape [N]. No factor T^2."""
    log_q_NV, log_p_NV = _log_probs(student_logits_NV, teacher_logits_NV, temperature)
    return _kl(log_p_NV, log_q_NV)


def reverse_kl(
    student_logits_NV: torch.Tensor, teacher_logits_NV: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return `KL(q_T || p_T) = sum_v q_T(v) [log q_T(v) - log p_T(v)]` of each row, shape [N]. No factor T^2."""
    log_q_NV, log_p_NV = _log_probs(student_logits_NV, teacher_logits_NV, temperature)
    return _kl(log_q_NV, log_p_NV)


def jsd(
    student_logits_NV: torch.Tensor, teacher_logits_NV: torch.Tensor, beta: float = 0.5, temperature: float = 1.0
) -> torch.Tensor:
    """Return the generalised Jensen-Shannon divergence of each row, shape [N]. No factor T^2.

        m = beta * p_T + (1 - beta) * q_T
        JSD_beta = beta * KL(p_T || m) + (1 - beta) * KL(q_T || m)                     (GKD, 2306.13649, equation 1)

    It vanishes at both ends of beta, so these mean what `JSD_beta / beta` and `JSD_beta / (1 - beta)` tend to: 0 is the
    forward, 1 the reverse divergence, as in TRL. `beta = 0.5` is symmetric and at most log 2.

    Raises:
        WheelsError: for beta outside [0, 1].
    """
    if not 0.0 <= beta <= 1.0:
        raise WheelsError(f"beta must be in [0, 1], got {beta}")
    log_q_NV, log_p_NV = _log_probs(student_logits_NV, teacher_logits_NV, temperature)
    if beta == 0.0:
        return _kl(log_p_NV, log_q_NV)
    if beta == 1.0:
        return _kl(log_q_NV, log_p_NV)
    log_m_NV = torch.logaddexp(log_p_NV + math.log(beta), log_q_NV + math.log1p(-beta))
    return beta * _kl(log_p_NV, log_m_NV) + (1.0 - beta) * _kl(log_q_NV, log_m_NV)


def distillation_loss(
    student_logits_NV: torch.Tensor,
    teacher_logits_NV: torch.Tensor | None,
    labels_N: torch.Tensor,
    *,
    objective: str = "kl",
    temperature: float = 1.0,
    w: float = 1.0,
    beta: float = 0.5,
    num_items: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss at the top of this file, a scalar.

    Args:
        student_logits_NV: logits of q at the N target positions.
        teacher_logits_NV: logits of p at the same positions; None for `ce` and `seqkd`.
        labels_N: the target tokens.
        objective: `ce` and `seqkd` are cross-entropy alone (for `seqkd` the labels are the teacher's own outputs, Kim &
            Rush 2016, 1606.07947); `kl`, `rkl`, `jsd` mix it with a divergence.
        temperature: T > 0, of both models.
        w: weight in [0, 1] of the divergence.
        beta: of `jsd`.
        num_items: M, the target tokens of the whole accumulated batch; None: N. With no token at all the loss is 0.
    """
    if objective in ("ce", "seqkd"):
        return mixed(None, student_logits_NV, labels_N, w=0.0, num_items=num_items)
    assert teacher_logits_NV is not None, f"objective {objective} needs the teacher"
    divergence_N = divergence(objective, student_logits_NV, teacher_logits_NV, temperature, beta)
    return mixed(divergence_N, student_logits_NV, labels_N, temperature=temperature, w=w, num_items=num_items)


def divergence(
    objective: str,
    student_logits_NV: torch.Tensor,
    teacher_logits_NV: torch.Tensor,
    temperature: float = 1.0,
    beta: float = 0.5,
) -> torch.Tensor:
    """Return the divergence that `objective` names (`kl`, `rkl` or `jsd`) of each row, shape [N]. No factor T^2."""
    if objective == "jsd":
        return jsd(student_logits_NV, teacher_logits_NV, beta, temperature)
    function = {"kl": forward_kl, "rkl": reverse_kl}[objective]
    return function(student_logits_NV, teacher_logits_NV, temperature)


def mixed(
    divergence_N: torch.Tensor | None,
    student_logits_NV: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    temperature: float = 1.0,
    w: float = 1.0,
    num_items: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss at the top of this file from cross-entropy and divergence, which may be missing at w = 0."""
    items = max(labels_N.numel(), 1) if num_items is None else num_items
    total = None if divergence_N is None else w * temperature**2 * divergence_N.sum()
    if w < 1.0:
        hard = (1.0 - w) * cross_entropy(student_logits_NV, labels_N).sum()
        total = hard if total is None else total + hard
    assert total is not None, "without a divergence w is 0"
    return total / items


def _log_probs(
    student_logits_NV: torch.Tensor, teacher_logits_NV: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `log q_T` and `log p_T`, floored at `LOG_ZERO`."""
    if student_logits_NV.shape != teacher_logits_NV.shape:
        shapes = f"{list(student_logits_NV.shape)} and {list(teacher_logits_NV.shape)}"
        raise WheelsError(f"student and teacher logits must have one shape, got {shapes}")
    if not temperature > 0.0:
        raise WheelsError(f"temperature must be above 0, got {temperature}")
    log_q_NV = functional.log_softmax(precise(student_logits_NV) / temperature, dim=-1)
    log_p_NV = functional.log_softmax(precise(teacher_logits_NV) / temperature, dim=-1)
    return log_q_NV.clamp_min(LOG_ZERO), log_p_NV.clamp_min(LOG_ZERO)


def precise(logits_NV: torch.Tensor) -> torch.Tensor:
    """Return half-precision logits as float32, others as they are."""
    return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()


def _kl(log_a_NV: torch.Tensor, log_b_NV: torch.Tensor) -> torch.Tensor:
    """Return `KL(a || b)` of each row, shape [N]."""
    return (log_a_NV.exp() * (log_a_NV - log_b_NV)).sum(dim=-1)
