"""Path Consistency Learning, independent of the actions: pure functions of values and step rewards.

At the optimum of an entropy-regularised decision process every path `s_i .. s_j` satisfies `C(i, j) = 0`, with

    C(i, j) = -V(s_i) + gamma^(j-i) V(s_j) + sum_{t=i}^{j-1} gamma^(t-i) u_t

(Nachum et al. 2017, https://arxiv.org/abs/1702.08892). `u_t` is the step's reward minus its log-ratio. Here a student
that writes every token itself is trained by it (`wheels.distillation.path_loss`). A gate that may call a teacher needs
no values: of two paths from one state they cancel (`wheels.agents.rl.agent`).

Tensors: `_BT` is batch and time. `mask_BT` is true at real steps, which are contiguous in a row. Time is in the names:
`value_t` is V(s_t), `value_tp1` is V(s_{t+1}); logarithms are natural.
Not here: the closed-form `log Z` of VarGrad, and a learned temperature.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from wheels.shapes import check_shapes


def last_step(mask_BT: torch.Tensor) -> torch.Tensor:
    """Return [B, T], bool: true at each row's last real step, nowhere in a row without any."""
    mask = mask_BT.bool()
    return mask & ~F.pad(mask, (0, 1))[:, 1:]


def steps_to_end(mask_BT: torch.Tensor) -> torch.Tensor:
    """Return [B, T], int64: real steps from `t` to the end of the row, `t` included; 0 at padding."""
    mask = mask_BT.long()
    return mask.flip(1).cumsum(1).flip(1) * mask


def next_values(value_t: torch.Tensor, bootstrap_B: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Return V(s_{t+1}), [B, T]: `value_t` one step on, and `bootstrap_B` after each row's last real step.

    Args:
        value_t: V(s_t), [B, T]; usually the target network's.
        bootstrap_B: V(s_T), [B]: 0 where the text ended there.
        mask_BT: [B, T], bool.
    """
    check_shapes("BT", value_t=value_t, mask_BT=mask_BT)
    return torch.where(last_step(mask_BT), bootstrap_B[:, None], F.pad(value_t, (0, 1))[:, 1:])


def single_step_residuals(
    value_t: torch.Tensor, value_tp1: torch.Tensor, u_t: torch.Tensor, gamma: float, mask_BT: torch.Tensor
) -> torch.Tensor:
    """Return `C(t, t+1) = -V(s_t) + u_t + gamma V(s_{t+1})`, [B, T], 0 at padding.

    Args:
        value_t: V(s_t), [B, T], nats.
        value_tp1: V(s_{t+1}), [B, T]: `next_values` of a target network, detached where texts are sampled.
        u_t: reward minus log-ratio, [B, T], nats.
        gamma: discount in [0, 1].
        mask_BT: [B, T], bool.
    """
    check_shapes("BT", value_t=value_t, value_tp1=value_tp1, u_t=u_t, mask_BT=mask_BT)
    return torch.where(mask_BT.bool(), -value_t + u_t + gamma * value_tp1, 0.0)


def suffix_residuals(
    value_t: torch.Tensor,
    u_t: torch.Tensor,
    bootstrap_B: torch.Tensor,
    gamma: float,
    mask_BT: torch.Tensor,
) -> torch.Tensor:
    """Return `C(t, end) = -V(s_t) + sum_{k>=t} gamma^(k-t) u_k + gamma^(n-t) V(s_n)`, [B, T], 0 at padding.

    Gradients go into the step's own `u_t` only, not into the later ones, so that every log-ratio is scaled by one
    residual (OREO, Wang et al. 2024, https://arxiv.org/abs/2412.16145); the values are the same.

    Args:
        value_t: V(s_t), [B, T], nats.
        u_t: reward minus log-ratio, [B, T], nats.
        bootstrap_B: V(s_n), [B]: 0 after a text that ended.
        gamma: discount in [0, 1].
        mask_BT: [B, T], bool.
    """
    check_shapes("BT", value_t=value_t, u_t=u_t, mask_BT=mask_BT)
    check_shapes("B", bootstrap_B=bootstrap_B)
    mask = mask_BT.bool()
    following = bootstrap_B
    returns: list[torch.Tensor] = []
    for t in reversed(range(u_t.shape[1])):
        following = torch.where(mask[:, t], u_t[:, t] + gamma * following, following)
        returns.append(following)
        following = following.detach()
    return_BT = torch.stack(returns[::-1], dim=1) if returns else torch.zeros_like(u_t)
    return torch.where(mask, return_BT - value_t, 0.0)


def half_square(residual: torch.Tensor, clip: float | None = None) -> torch.Tensor:
    """Return `C^2 / 2`, whose gradient in C is C itself; with `clip` the gradient is C held to [-clip, clip].

    Clipping the residual that multiplies the gradient (as Trust-PCL's authors do) is Huber's loss:
    `clip (|C| - clip / 2)` beyond `clip`.
    """
    if clip is None:
        return residual.square() / 2
    return F.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=clip)


def path_terms(
    single_BT: torch.Tensor,
    suffix_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    clip: float | None = None,
    by_length: bool = False,
) -> torch.Tensor:
    """Return the mean of `C(t, t+1)^2 / 2` and `C(t, end)^2 / 2` of each step, [B, T], 0 at padding.

    This average of single-step and whole-suffix residuals is that of Guo et al. 2021,
    https://arxiv.org/abs/2106.07704; clipping and division follow Trust-PCL, https://arxiv.org/abs/1707.01891.

    Args:
        single_BT: `single_step_residuals`, [B, T], nats.
        suffix_BT: `suffix_residuals`, [B, T], nats.
        mask_BT: [B, T], bool.
        clip: hold each residual's gradient to [-clip, clip] nats; None does not.
        by_length: divide a suffix's residual by its number of steps first, so that it is in nats per token.
    """
    check_shapes("BT", single_BT=single_BT, suffix_BT=suffix_BT, mask_BT=mask_BT)
    if by_length:
        suffix_BT = suffix_BT / steps_to_end(mask_BT).clamp(min=1)
    single, suffix = half_square(single_BT, clip), half_square(suffix_BT, clip)
    return torch.where(mask_BT.bool(), (single + suffix) / 2, 0.0)
