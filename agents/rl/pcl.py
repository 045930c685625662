"""Path Consistency Learning for a student that may call its teacher: pure functions of tensors.

At the optimum of an entropy-regularised decision process every path `s_i .. s_j` satisfies `C(i, j) = 0`, with

    C(i, j) = -V(s_i) + gamma^(j-i) V(s_j) + sum_{t=i}^{j-1} gamma^(t-i) u_t

(Nachum et al. 2017, https://arxiv.org/abs/1702.08892). `u_t` is the step's reward minus its log-ratio: see
`wheels.agents.gate`. For which policies is that true, and of what?

 - Greedy texts (a token is `argmax q`, a call appends `argmax p`), only the gate learned: of EVERY path.
 - Sampled texts, tokens and gate learned (the token policy is then `q*(v) ~ p(v) exp(gamma V(s v))`): of every path of
   written tokens. A sampled call goes to a random state, so its step holds in expectation over `p`.
 - Sampled texts, only the gate learned, `q` fixed: in expectation only, over `q` for a written token and over `p`
   for a call, given the state and the gate's decision. `C` then has mean 0 and a variance that no gate removes. Its
   square has the right minimiser only if `V(s_{t+1})` carries no gradient (a target network, detached): otherwise the
   variance of the next value is punished as well and both the values and the gate are biased.

Tensors: `_BT` is batch and time. `mask_BT` is true at real steps; a row's real steps come first (padding at the right).
Time is in the names: `value_t` is V(s_t), `value_tp1` is V(s_{t+1}); logarithms are natural.
The residuals of paths and their loss, which know no gate, are in `wheels.policy.path_consistency`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from wheels.agents.gate import gate_log_probs
from wheels.policy.path_consistency import single_step_residuals
from wheels.shapes import check_shapes


class BothActions(NamedTuple):
    """Single-step residuals of both decisions at each state, [B, T], nats, 0 at padding."""

    write: torch.Tensor
    """-V(s) + r_w - alpha log(1 - g) + gamma V(s after writing)."""
    call: torch.Tensor
    """-V(s) + r_c - alpha log g + gamma V(s after a call)."""


def gain(
    write_reward_t: torch.Tensor,
    call_reward_t: torch.Tensor,
    write_value_tp1: torch.Tensor,
    call_value_tp1: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    """Return what a call is worth beyond writing, `r_c - r_w + gamma (V(s after a call) - V(s after writing))`, nats.

    At the optimum `call_logit = gain / alpha`. Rewards are without entropies: greedy `r_w = -regret`, sampled and in
    expectation `r_w = -KL(q || p)`; `r_c = -price cost`. At gamma = 0 this is `regret - price cost`.

    Args:
        write_reward_t: r_w, any shape, nats; known at every state, whatever was done there.
        call_reward_t: r_c, the same shape.
        write_value_tp1: V (or its mean over q) after writing, the same shape.
        call_value_tp1: V (or its mean over p) after a call, the same shape.
        gamma: discount in [0, 1].
    """
    check_shapes(
        None, write_reward_t=write_reward_t, call_reward_t=call_reward_t, write_value_tp1=write_value_tp1,
        call_value_tp1=call_value_tp1,
    )  # fmt: skip
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
        write_value_tp1: V after writing, [B, T]; usually a target network's, detached.
        call_value_tp1: V after a call, [B, T].
        gamma: discount in [0, 1].
        alpha: entropy weight.
        mask_BT: [B, T], bool.
    """
    check_shapes(
        "BT", value_t=value_t, call_logit_t=call_logit_t, write_reward_t=write_reward_t, call_reward_t=call_reward_t,
        write_value_tp1=write_value_tp1, call_value_tp1=call_value_tp1, mask_BT=mask_BT,
    )  # fmt: skip
    log_write_t, log_call_t = gate_log_probs(call_logit_t)
    u_write_t, u_call_t = write_reward_t - alpha * log_write_t, call_reward_t - alpha * log_call_t
    return BothActions(
        single_step_residuals(value_t, write_value_tp1, u_write_t, gamma, mask_BT),
        single_step_residuals(value_t, call_value_tp1, u_call_t, gamma, mask_BT),
    )
