"""Whether an episode may call now, and how much of its budget is left."""

from __future__ import annotations

import torch

from wheels.decoding.methods import budget

MODES = ("average", "strict", "episode")
"""`average`: a call is never refused where the budget is above 0. `strict`: no prefix exceeds it. `episode`: the whole
output may have `floor(budget * limit)` teacher tokens, anywhere."""


def permitted(
    mode: str,
    budget_B: torch.Tensor,
    position_B: torch.Tensor,
    calls_B: torch.Tensor,
    limit_B: torch.Tensor,
    burst: int = 0,
) -> torch.Tensor:
    """Return the rows that may call now, bool `[B]`.

    Args:
        mode: One of `MODES`.
        budget_B: Shares in [0, 1], float64.
        position_B: Tokens written so far.
        calls_B: Tokens of these that the teacher wrote.
        limit_B: Tokens that may be written in all.
        burst: Teacher tokens that may be spent ahead, in strict mode.
    """
    if mode == "episode":
        return calls_B + 1 <= budget.strict_allowance(budget_B, limit_B)
    return budget.permitted(mode, budget_B, position_B, calls_B, burst)


def budget_left(budget_B: torch.Tensor, calls_B: torch.Tensor, limit_B: torch.Tensor) -> torch.Tensor:
    """Compute `budget - calls / limit`, in [-1, 1]: the share of the longest output that the teacher may still write.

    Below 0 only in `average` mode, where single outputs may exceed the budget, or after a burst.
    """
    return budget_B - calls_B / limit_B
