"""Distillation by Path Consistency Learning: the student writes every token, without calls.

Distillation as entropy-regularised value optimisation (Liu et al. 2025, https://arxiv.org/abs/2502.17717; our
reconstruction, from its abstract): with reward `log p(v|s)` and entropy weight 1 the objective is `-KL(q || p)` over
whole texts, `V* = 0` in every state of a student without limits, and a step is worth

    u_t = log p(y_t) - log q(y_t)                                    C(i, j) = -V(s_i) + sum_{t=i}^{j-1} u_t + V(s_j)

(`wheels.policy.path_consistency`), with `V = 0` after the end token. Minimised is the mean over real steps of half the
sum of `C(t, t+1)^2 / 2` and `C(t, end)^2 / 2` (Guo et al. 2021, https://arxiv.org/abs/2106.07704). It is true of every
path, so references and the teacher's outputs (off-policy) and the student's own samples (on-policy) all serve.

**Over a distribution** (`distribution`). The written token is one of many one-token paths from a state, and its
residual is mostly luck. With `distribution` other than `written` the step's own part covers all of them, weighted by m
(no gradient): the student's q, or `both`, (p + q) / 2, half of the paths on-policy and half off-policy:

    L_t = sum_v m(v) [log p(v) - log q(v)]^2 / 2  -  C log q(y_t)  +  C^2 / 2        u_k = -KL(q || p) at s_k in C

where C has no gradient beside the logarithm and moves the value alone in its square (both halves of the mean above),
and V(s_t) = -KL(q || p) + what the network says of the rest. For m = q the first term has the gradient of KL(q || p),
and on samples of the student the mean gradient of L_t is that of the written token's form, with less luck: the
single-step decomposition of MiniLLM (Gu et al. 2023, https://arxiv.org/abs/2306.08543). For `both` the minimum is the
teacher all the same, and a token that the student has forgotten pulls as well.

**Horizon** (`gamma`). Undiscounted, every further token costs a weak student its divergence, while an end that comes
too early costs `-log p(end)` once: its optimum may be the empty text. At gamma = 0 each state counts alone, as in
GKD (Agarwal et al. 2023, https://arxiv.org/abs/2306.13649), and the distribution's term is all that is left of L_t.

The value is a small network of its own on the student's last hidden state. It stops the gradient there (fitting it
does not move the student, as in OREO, Wang et al. 2024, https://arxiv.org/abs/2412.16145), starts at 0, and is dropped
when the training ends. The next value comes from a Polyak average of it, without gradient.

What to know: of ONE path per source every pair (q, V) with `V(s_t) - V(s_{t+1}) = u_t` is consistent, so that a value
that learns faster than the student can take the log-ratios on itself and leave the student nothing to learn. Samples of
the student (`lmbda`) end that, and so does `value_rate` 0, which holds V at 0. Left out: a KL to the starting policy,
several samples per source with VarGrad's `log Z` instead of `V(s_0)`, an entropy weight other than 1.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from wheels.distillation.learning_rates import taken_out
from wheels.distillation.losses import IGNORED, cross_entropy, precise
from wheels.policy.features import LOG_FLOOR
from wheels.policy.path_consistency import (
    last_step,
    next_values,
    path_terms,
    single_step_residuals,
    suffix_residuals,
)
from wheels.shapes import check_shapes

VALUE = "path_value"
"""The attribute of the student that holds its value while it trains."""


@dataclass(frozen=True)
class PathSettings:
    """The settings of the path-consistency loss."""

    clip: float | None = None
    """Hold the gradient of each residual to [-clip, clip] nats; None does not."""
    by_length: bool = False
    """Divide the residual of a suffix by its number of steps."""
    distribution: str = "written"
    """What a step's own part is taken over: the `written` token, the distribution of the `student`, or of `both`."""
    gamma: float = 1.0
    """Discount of what follows a step, in [0, 1]."""
    value_rate: float = 0.1
    """Learning rate of the value over the student's; 0 holds V at 0."""
    value_tau: float = 0.05
    """Share of the present value that enters the Polyak average at each step; 1: the present value itself."""
    warm_up: float = 0.0
    """Share of the steps (or number, from 1 on) in which all rows are off-policy."""


def path_losses(
    log_p_BT: torch.Tensor,
    log_q_BT: torch.Tensor,
    value_t: torch.Tensor,
    target_value_t: torch.Tensor,
    mask_BT: torch.Tensor,
    ended_B: torch.Tensor,
    *,
    divergence_BT: torch.Tensor | None = None,
    gamma: float = 1.0,
    clip: float | None = None,
    by_length: bool = False,
    floor: float = LOG_FLOOR,
) -> torch.Tensor:
    """Return each step's part of the loss at the top of this file, [B, T], nats squared, 0 at padding.

    Of L_t it is all but the first term. A text that was cut short by a limit has no state after its last token that a
    value could be read from: its path ends one token earlier, at `V` of the state before that token.

    Args:
        log_p_BT: the teacher's log-probability of each written token, [B, T], nats; floored at `floor`.
        log_q_BT: the student's, [B, T].
        value_t: V(s_t) of the state before each token, [B, T], nats.
        target_value_t: the same of the target network, without gradient: else the fixed point is biased.
        mask_BT: [B, T], bool: the written tokens.
        ended_B: [B], bool: whether the text has its end token.
        divergence_BT: KL(q || p) at each step, [B, T], nats, no gradient, of which u is the negative; the values are of
            the rest. None: u is that of the written token.
        gamma: see `PathSettings`.
        clip: see `PathSettings`.
        by_length: see `PathSettings`.
        floor: least `log p`.
    """
    check_shapes(
        "BT", log_p_BT=log_p_BT, log_q_BT=log_q_BT, value_t=value_t, target_value_t=target_value_t, mask_BT=mask_BT
    )
    check_shapes("B", ended_B=ended_B)
    u_t = log_p_BT.clamp(min=floor) - log_q_BT
    if divergence_BT is not None:
        # The mean's value, with the gradient of the written token.
        u_t = log_q_BT.detach() - log_q_BT - divergence_BT
        value_t, target_value_t = value_t - divergence_BT, target_value_t - divergence_BT
    cut_BT = last_step(mask_BT) & ~ended_B.bool()[:, None]
    end_value_B = torch.where(cut_BT, target_value_t, 0.0).sum(1)
    steps_BT = mask_BT.bool() & ~cut_BT
    value_tp1 = next_values(target_value_t, end_value_B, steps_BT)
    single_BT = single_step_residuals(value_t, value_tp1, u_t, gamma, steps_BT)
    suffix_BT = suffix_residuals(value_t, u_t, end_value_B, gamma, steps_BT)
    return path_terms(single_BT, suffix_BT, steps_BT, clip=clip, by_length=by_length)


def distribution_terms(
    student_logits_NV: torch.Tensor, teacher_logits_NV: torch.Tensor, distribution: str, floor: float = LOG_FLOOR
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `sum_v m(v) [log p(v) - log q(v)]^2 / 2` and `KL(q || p)` of each state, [N] each; the latter for reading.

    Args:
        student_logits_NV: logits of q.
        teacher_logits_NV: logits of p.
        distribution: m is q (`student`), or (p + q) / 2 (`both`).
        floor: least `log p`.
    """
    log_q_NV = precise(student_logits_NV).log_softmax(-1)
    log_p_NV = precise(teacher_logits_NV).log_softmax(-1).clamp(min=floor)
    q_NV = log_q_NV.detach().exp()
    m_NV = q_NV if distribution == "student" else (q_NV + log_p_NV.exp()) / 2
    u_NV = log_p_NV - log_q_NV
    return (m_NV * u_NV.square()).sum(-1) / 2, -(q_NV * u_NV.detach()).sum(-1)


def student_path_loss(
    student_logits_NV: torch.Tensor,
    teacher_logits_NV: torch.Tensor,
    labels_BT: torch.Tensor,
    value_t: torch.Tensor,
    target_value_t: torch.Tensor,
    *,
    eos_ids: Sequence[int],
    settings: PathSettings,
) -> torch.Tensor:
    """Return the sum over target tokens of `path_losses`, a scalar.

    Args:
        student_logits_NV: logits of q at the N target positions, row by row.
        teacher_logits_NV: logits of p at the same positions.
        labels_BT: the token that each position predicts, `IGNORED` where that is no target.
        value_t: V(s_t) of each position, [B, T].
        target_value_t: the same of the target network.
        eos_ids: the tokens that end a text.
        settings: of them all but those of the value.
    """
    mask_BT = labels_BT != IGNORED
    log_p_BT, log_q_BT = (
        torch.zeros_like(value_t).masked_scatter(mask_BT, -cross_entropy(logits_NV, labels_BT[mask_BT]).to(value_t))
        for logits_NV in (teacher_logits_NV, student_logits_NV)
    )
    ends_BT = torch.isin(labels_BT, torch.tensor(list(eos_ids), device=labels_BT.device))
    distribution_N, divergence_BT = torch.zeros(1, device=labels_BT.device), None
    if settings.distribution != "written":
        distribution_N, divergence_N = distribution_terms(student_logits_NV, teacher_logits_NV, settings.distribution)
        divergence_BT = torch.zeros_like(value_t).masked_scatter(mask_BT, divergence_N.to(value_t))
    losses_BT = path_losses(
        log_p_BT,
        log_q_BT,
        value_t,
        target_value_t,
        mask_BT,
        (last_step(mask_BT) & ends_BT).any(1),
        divergence_BT=divergence_BT,
        gamma=settings.gamma,
        clip=settings.clip,
        by_length=settings.by_length,
    )
    return losses_BT.sum() + distribution_N.sum()


class PathValue(nn.Module):
    """The value of a student's states, and its Polyak average; 0 everywhere at first."""

    def __init__(self, width: int, settings: PathSettings, seed: int = 0) -> None:
        """Build both.

        Args:
            width: size of the student's hidden state.
            settings: of them `value_rate` and `value_tau`.
            seed: of the weights.
        """
        super().__init__()
        self.settings = settings
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.present = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        for parameter in self.present[-1].parameters():
            nn.init.zeros_(parameter)
        self.average = copy.deepcopy(self.present).requires_grad_(False)
        self.present.requires_grad_(settings.value_rate > 0.0)

    def forward(self, hidden_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return V and its average, both [B, T] in float32; no gradient reaches the hidden states."""
        hidden_BTD = hidden_BTD.detach().float()
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            return self.present(hidden_BTD).squeeze(-1), self.average(hidden_BTD).squeeze(-1)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average: `theta' <- (1 - tau) theta' + tau theta`."""
        for average, present in zip(self.average.parameters(), self.present.parameters(), strict=True):
            average.lerp_(present, self.settings.value_tau)


class FollowValue(TrainerCallback):
    """Updates the average after each optimizer step, before the checkpoint."""

    def __init__(self, value: PathValue) -> None:
        """Follow `value`."""
        self.value = value

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move it."""
        self.value.follow()


def attach_value(student: PreTrainedModel, settings: PathSettings, seed: int) -> PathValue:
    """Attach a value network to the student; it trains with it and is part of its checkpoints."""
    value = PathValue(student.config.hidden_size, settings, seed)
    student.add_module(VALUE, value.to(student.device))
    return value


def detach_value(student: PreTrainedModel) -> None:
    """Detach the value network, if any: the plain student is left."""
    if hasattr(student, VALUE):
        delattr(student, VALUE)


def set_value_rate(optimizer: torch.optim.Optimizer, value: PathValue) -> None:
    """Put the value's parameters into a group of their own, with `value_rate` times the learning rate."""
    mine = [weight for _, apart in taken_out(optimizer, value.present.parameters()) for weight in apart]
    if mine:
        first = {name: setting for name, setting in optimizer.param_groups[0].items() if name != "params"}
        rate = first["lr"] * value.settings.value_rate
        optimizer.add_param_group(first | {"params": mine, "lr": rate, "weight_decay": 0.0})
