"""The gate of a student that may call its teacher, and what each of its steps is worth: pure functions of tensors.

`pi(CALL|s) = g`, `pi(v|s) = (1 - g) q(v|s)`, `g = sigmoid(z)`. `u_t`, a step's reward minus its log-ratio, is what
path consistency sums (`wheels.agents.rl.pcl`); everything is in nats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from wheels.policy.features import LOG_FLOOR
from wheels.shapes import check_shapes

CREDITS = ("consistent", "sampled")
"""How a call is credited: `consistent` is right, `sampled` a negative control: see `call_reward`."""

LOG_P_FLOOR = LOG_FLOOR
"""Least log-probability that a token is charged with: one impossible token must not outweigh a sentence."""


def gate_log_probs(call_logit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `(log(1 - g), log g)`, `g = sigmoid(call_logit)`: the log-probabilities of writing and of calling.

    Args:
        call_logit: z, any shape. Finite at both ends: at z = 200 they are -200 and 0.
    """
    return F.logsigmoid(-call_logit), F.logsigmoid(call_logit)


def trust_region(call_logit: torch.Tensor, reference_logit: torch.Tensor) -> torch.Tensor:
    """Return `KL(Bernoulli(g) || Bernoulli(g_ref))` of each state, in nats: how far the gate left its warm start.

    `g log(g / g_ref) + (1 - g) log((1 - g) / (1 - g_ref))`; the relative entropy of Trust-PCL (Nachum et al. 2018,
    https://arxiv.org/abs/1707.01891) with the warm start as `pi_old`, for the gate only and with a fixed
    weight that the caller chooses.

    Args:
        call_logit: z of the gate, any shape.
        reference_logit: z of the warm start, the same shape; no gradient flows into it.
    """
    check_shapes(None, call_logit=call_logit, reference_logit=reference_logit)
    reference_logit = reference_logit.detach()
    log_write, log_call = gate_log_probs(call_logit)
    log_write_reference, log_call_reference = gate_log_probs(reference_logit)
    return log_call.exp() * (log_call - log_call_reference) + log_write.exp() * (log_write - log_write_reference)


def gate_value(write_value: torch.Tensor, call_logit: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the soft value of a gate from the value of writing: `V = Q_w + alpha log(1 + e^z)`, `z = gain / alpha`.

    "Unified" PCL for the two actions: with `Q_c = Q_w + gain` this is `alpha log(e^(Q_w / alpha) + e^(Q_c / alpha))`,
    so one head that gives a base value and a gain gives V and the gate, consistent with each other by construction.

    Args:
        write_value: Q_w, what writing is worth, in nats, any shape.
        call_logit: z, the same shape.
        alpha: entropy weight, > 0.
    """
    check_shapes(None, write_value=write_value, call_logit=call_logit)
    return write_value + alpha * F.softplus(call_logit)


def unified(q_value: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `V = alpha logsumexp(Q / alpha)` and `log pi = (Q - V) / alpha` ("Unified" PCL, Nachum et al. 2017).

    Args:
        q_value: Q of each action, shape [..., A], in nats.
        alpha: entropy weight, > 0.

    Returns:
        V of shape [...] and log pi of shape [..., A].
    """
    value = alpha * torch.logsumexp(q_value / alpha, dim=-1)
    return value, (q_value - value.unsqueeze(-1)) / alpha


def token_reward(
    log_p_chosen: torch.Tensor,
    log_q_chosen: torch.Tensor,
    log_gate_write: torch.Tensor,
    alpha: float,
    floor: float = LOG_P_FLOOR,
) -> torch.Tensor:
    """Return `u_t = log p(y_t) - log q(y_t) - alpha log(1 - g_t)` of a token that the student sampled and wrote.

    Args:
        log_p_chosen: the teacher's log-probability of the token, <= 0, any shape; floored at `floor`.
        log_q_chosen: the student's, the same shape.
        log_gate_write: log(1 - g_t), the same shape.
        alpha: weight of the gate's entropy; the token's own entropy has weight 1 (distillation is a KL divergence).
        floor: least log p.
    """
    check_shapes(None, log_p_chosen=log_p_chosen, log_q_chosen=log_q_chosen, log_gate_write=log_gate_write)
    return log_p_chosen.clamp(min=floor) - log_q_chosen - alpha * log_gate_write


def regret_reward(
    regret: torch.Tensor, log_gate_write: torch.Tensor, alpha: float, floor: float = LOG_P_FLOOR
) -> torch.Tensor:
    """Return `u_t = -(max_v log p(v) - log p(argmax q)) - alpha log(1 - g_t)` of a greedily written token.

    Args:
        regret: what the teacher loses by the student's choice, >= 0, nats, any shape; cut at `-floor`.
        log_gate_write: log(1 - g_t), the same shape.
        alpha: weight of the gate's entropy.
        floor: least log p.
    """
    check_shapes(None, regret=regret, log_gate_write=log_gate_write)
    return -regret.clamp(max=-floor) - alpha * log_gate_write


def call_reward(
    price: torch.Tensor | float,
    cost: torch.Tensor,
    log_gate_call: torch.Tensor,
    alpha: float,
    *,
    credit: str = "consistent",
    log_p_chosen: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `u_t = -price cost - alpha log g_t` of a call.

    The teacher's token pays its own entropy: `log p(y_t) - log p(y_t) = 0` remains of it (`credit="consistent"`).
    `credit="sampled"` adds `log p(y_t)` and leaves the entropy out. It is wrong, since the call is then worth
    `-H(p)` and the student calls where the teacher is confident; it is kept as the negative control of a test.

    Args:
        price: nats per unit of cost, broadcast against `cost`.
        cost: what the call costs, usually 1 (token), any shape.
        log_gate_call: log g_t, the shape of `cost`.
        alpha: weight of the gate's entropy.
        credit: one of `CREDITS`.
        log_p_chosen: the teacher's log-probability of the token it wrote; needed by `credit="sampled"`.

    Raises:
        ValueError: for an unknown credit, or the sampled one without `log_p_chosen`.
    """
    check_shapes(None, cost=cost, log_gate_call=log_gate_call, log_p_chosen=log_p_chosen)
    reward = -price * cost - alpha * log_gate_call
    if credit == "consistent":
        return reward
    if credit != "sampled":
        raise ValueError(f"credit must be one of {', '.join(CREDITS)}, got {credit!r}")
    if log_p_chosen is None:
        raise ValueError("credit='sampled' needs log_p_chosen, the teacher's log-probability of its token")
    return reward + log_p_chosen
