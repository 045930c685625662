"""The gate of a student that may call its teacher, the reward of each step, its residuals: pure functions.

`pi(CALL|s) = g`, `pi(v|s) = (1 - g) q(v|s)`, `g = sigmoid(z)`. `u_t`, a step's reward minus its log-ratio, is what
path consistency sums (`wheels.policy.path_consistency`); everything is in nats. For which policies does it hold?

 - Greedy texts (a token is `argmax q`, a call appends `argmax p`), only the gate learned: on EVERY path.
 - Sampled texts, tokens and gate learned (the token policy is then `q*(v) ~ p(v) exp(gamma V(s v))`): on every path of
   written tokens. A sampled call goes to a random state, so its step holds in expectation over `p`.
 - Sampled texts, only the gate learned, `q` fixed: in expectation only, over `q` for a written token and over `p`
   for a call, given the state and the gate's decision. `C` then has mean 0 and a variance that no gate removes. Its
   square has the right minimiser only if `V(s_{t+1})` carries no gradient (a target network, detached): otherwise the
   loss penalises the variance of the next value too, and both the values and the gate are biased.

Tensors: `_BT` is batch and time. Time is in the names: `value_t` is V(s_t), `value_tp1` is V(s_{t+1}).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from wheels.policy.features import LOG_FLOOR
from wheels.policy.path_consistency import single_step_residuals
from wheels.shapes import check_shapes

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
    price: torch.Tensor | float, cost: torch.Tensor, log_gate_call: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Return `u_t = -price cost - alpha log g_t` of a call.

    The teacher's token pays its own entropy: of it `log p(y_t) - log p(y_t) = 0` remains. Crediting `log p(y_t)` alone
    would be wrong: a call would be worth `-H(p)`, and the student would call where the teacher is confident.

    Args:
        price: nats per unit of cost, broadcast against `cost`.
        cost: what the call costs, usually 1 (token), any shape.
        log_gate_call: log g_t, the shape of `cost`.
        alpha: weight of the gate's entropy.
    """
    check_shapes(None, cost=cost, log_gate_call=log_gate_call)
    return -price * cost - alpha * log_gate_call


class BothActions(NamedTuple):
    """Single-step residuals of both decisions at each state, [B, T], nats, 0 at padding."""

    write: torch.Tensor
    """-V(s) + r_w - alpha log(1 - g) + gamma V(s after episodes)."""
    call: torch.Tensor
    """-V(s) + r_c - alpha log g + gamma V(s after a call)."""


def gain(
    write_reward_t: torch.Tensor,
    call_reward_t: torch.Tensor,
    write_value_tp1: torch.Tensor,
    call_value_tp1: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    """Return the gain of a call over episodes, `r_c - r_w + gamma (V(s after a call) - V(s after episodes))`, nats.

    At the optimum `call_logit = gain / alpha`. Rewards are without entropies: greedy `r_w = -regret`, sampled and in
    expectation `r_w = -KL(q || p)`; `r_c = -price cost`. At gamma = 0 this is `regret - price cost`.

    Args:
        write_reward_t: r_w, any shape, nats; known at every state, whatever was done there.
        call_reward_t: r_c, the same shape.
        write_value_tp1: V (or its mean over q) after episodes, the same shape.
        call_value_tp1: V (or its mean over p) after a call, the same shape.
        gamma: discount in [0, 1].
    """
    check_shapes(
        None,
        write_reward_t=write_reward_t,
        call_reward_t=call_reward_t,
        write_value_tp1=write_value_tp1,
        call_value_tp1=call_value_tp1,
    )
    return call_reward_t - write_reward_t + gamma * (call_value_tp1 - write_value_tp1)


def both_action_residuals(
    value_t: torch.Tensor,
    call_logit_t: torch.Tensor,
    write_reward_t: torch.Tensor,
    call_reward_t: torch.Tensor,
    write_value_tp1: torch.Tensor,
    call_value_tp1: torch.Tensor,
    gamma: float,
    alpha: float,
    mask_BT: torch.Tensor,
) -> BothActions:
    """Return the residuals of BOTH actions at each state: the variance-reduced form.

    The immediate reward of both actions is known at every state, so no importance weight and no luck of the gate
    enters. `call - write = gain - alpha call_logit` has no V(s_t) in it: it trains the gate. Only the difference of the
    two next values is uncertain. Where one of them was not visited give an estimate (a head's, or a paired
    continuation's) or the visited one twice, which makes the gate's horizon the present step; never a silent 0.

    Args:
        value_t: V(s_t), [B, T], nats.
        call_logit_t: z_t, [B, T].
        write_reward_t: [B, T], nats, without entropy; see `gain`.
        call_reward_t: [B, T], nats, without entropy.
        write_value_tp1: V after episodes, [B, T]; usually a target network's, detached.
        call_value_tp1: V after a call, [B, T].
        gamma: discount in [0, 1].
        alpha: entropy weight.
        mask_BT: [B, T], bool.
    """
    check_shapes(
        "BT",
        value_t=value_t,
        call_logit_t=call_logit_t,
        write_reward_t=write_reward_t,
        call_reward_t=call_reward_t,
        write_value_tp1=write_value_tp1,
        call_value_tp1=call_value_tp1,
        mask_BT=mask_BT,
    )
    log_write_t, log_call_t = gate_log_probs(call_logit_t)
    u_write_t, u_call_t = write_reward_t - alpha * log_write_t, call_reward_t - alpha * log_call_t
    return BothActions(
        single_step_residuals(value_t, write_value_tp1, u_write_t, gamma, mask_BT),
        single_step_residuals(value_t, call_value_tp1, u_call_t, gamma, mask_BT),
    )
