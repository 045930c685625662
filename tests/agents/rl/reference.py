"""What only tests need of path consistency: the obvious path beside the fast ones, and the wrong credit."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from wheels.agents.gate import call_reward
from wheels.shapes import check_shapes

CREDITS = ("consistent", "sampled")
"""How a call is credited: `consistent` is right, `sampled` a negative control."""


def credited_call(
    price: torch.Tensor | float,
    cost: torch.Tensor,
    log_gate_call: torch.Tensor,
    alpha: float,
    log_p_chosen: torch.Tensor,
    credit: str,
) -> torch.Tensor:
    """`call_reward`; `credit="sampled"` adds `log p(y_t)` and leaves the entropy out, which is wrong."""
    reward = call_reward(price, cost, log_gate_call, alpha)
    return reward + log_p_chosen if credit == "sampled" else reward


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


def residuals(
    value_t: torch.Tensor, u_t: torch.Tensor, bootstrap_B: torch.Tensor, gamma: float, mask_BT: torch.Tensor
) -> torch.Tensor:
    """Return `C(i, j)` of every pair of states of every row: the obvious path beside the two fast ones.

    Memory grows with T^3. `C(0, n)` is the residual of trajectory balance (Malkin et al. 2022,
    https://arxiv.org/abs/2201.13259), with `V(s_0)` as `log Z`.

    Args:
        value_t: V(s_t), [B, T], nats.
        u_t: reward minus log-ratio, [B, T], nats.
        bootstrap_B: V(s_n) after each row's last real step, [B].
        gamma: discount in [0, 1].
        mask_BT: [B, T], bool.

    Returns:
        [B, T+1, T+1]: `C(i, j)` at `i < j <= n`, 0 elsewhere.
    """
    check_shapes("BT", value_t=value_t, u_t=u_t, mask_BT=mask_BT)
    check_shapes("B", bootstrap_B=bootstrap_B)
    steps = u_t.shape[1]
    length_B1 = mask_BT.long().sum(1, keepdim=True)
    state_S = torch.arange(steps + 1, device=u_t.device)
    value_BS = torch.where(state_S == length_B1, bootstrap_B[:, None], F.pad(value_t, (0, 1)))
    i, j, t = state_S[:, None, None], state_S[None, :, None], state_S[None, None, :-1]
    inside_IJT = (i <= t) & (t < j)
    weight_IJT = torch.where(inside_IJT, u_t.new_tensor(gamma) ** (t - i).clamp(min=0), 0.0)
    discount_IJ = u_t.new_tensor(gamma) ** (state_S - state_S[:, None]).clamp(min=0)
    sum_BIJ = torch.einsum("ijt,bt->bij", weight_IJT, u_t)
    residual_BIJ = -value_BS[:, :, None] + sum_BIJ + discount_IJ * value_BS[:, None, :]
    valid_BIJ = (state_S > state_S[:, None]) & (state_S <= length_B1[:, :, None])
    return torch.where(valid_BIJ, residual_BIJ, 0.0)
