"""Rewards of a token and of a finished text: pure functions of tensors, in nats.

A call earns 0, `log p - log p`; its cost is given apart. Crediting the sampled `log p` of the teacher's token instead
would reward calls where the teacher is confident.
"""

from __future__ import annotations

import torch

from wheels.policy.features import LOG_FLOOR

PARTS = ("logprob", "regret", "terminal")
"""The summands that a reward can be made of."""


def logprob_reward(log_p_BV: torch.Tensor, token_B: torch.Tensor, by_teacher_B: torch.Tensor) -> torch.Tensor:
    """Compute `log p(v)` of the student's tokens, floored at `LOG_FLOOR`, and 0 for the teacher's; `[B]`, <= 0.

    Distillation as entropy-regularised value optimisation (Liu et al. 2025, https://arxiv.org/abs/2502.17717), without
    the entropy term, which belongs to the algorithm.

    Args:
        log_p_BV: The teacher's log-probabilities at the state, in nats.
        token_B: The token that was written.
        by_teacher_B: Whether the teacher wrote it.
    """
    log_p_B = log_p_BV.clamp(min=LOG_FLOOR).gather(-1, token_B[:, None]).squeeze(-1)
    return log_p_B.masked_fill(by_teacher_B, 0.0)


def regret_reward(log_p_BV: torch.Tensor, token_B: torch.Tensor, by_teacher_B: torch.Tensor) -> torch.Tensor:
    """Compute `log p(v) - max_u log p(u)` of the student's tokens, floored alike, and 0 for the teacher's; `[B]`, <= 0.

    For a greedy student it is minus `wheels.decoding.step.regret`.

    Args:
        log_p_BV: The teacher's log-probabilities at the state, in nats.
        token_B: The token that was written.
        by_teacher_B: Whether the teacher wrote it.
    """
    best_B = log_p_BV.max(-1).values.clamp(min=LOG_FLOOR).masked_fill(by_teacher_B, 0.0)
    return logprob_reward(log_p_BV, token_B, by_teacher_B) - best_B


def token_reward(
    parts: tuple[str, ...], log_p_BV: torch.Tensor | None, token_B: torch.Tensor, by_teacher_B: torch.Tensor
) -> torch.Tensor:
    """Sum the parts that a token earns at once (`logprob`, `regret`), float32 `[B]`; 0 where `parts` has none.

    Args:
        parts: Names of `PARTS`.
        log_p_BV: The teacher's log-probabilities; needed by these parts.
        token_B: The token that was written.
        by_teacher_B: Whether the teacher wrote it.
    """
    total_B = torch.zeros(token_B.shape, dtype=torch.float32, device=token_B.device)
    for part, reward in (("logprob", logprob_reward), ("regret", regret_reward)):
        if part in parts:
            assert log_p_BV is not None, "the teacher did not read this state"
            total_B = total_B + reward(log_p_BV, token_B, by_teacher_B)
    return total_B


def needs_teacher(parts: tuple[str, ...]) -> bool:
    """Whether the reward of a student's token asks for the teacher's view of the state."""
    return "logprob" in parts or "regret" in parts
