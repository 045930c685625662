"""The strict budget: no prefix of a text exceeds it. The other modes rely on thresholds and permit every call."""

from __future__ import annotations

import torch

from wheels.decoding.methods.choices import MODES
from wheels.errors import check_choice

EPSILON = 1e-9
"""So that a product such as 0.1 * 30 = 3.0000000000000004 or 2.9999999999999996 floors to what was meant."""


def strict_allowance(budget: float | torch.Tensor, tokens: torch.Tensor, burst: int = 0) -> torch.Tensor:
    """Compute how many of the first `tokens` tokens the teacher may write: `floor(budget * tokens) + burst`."""
    return torch.floor(budget * tokens.double() + EPSILON).long() + burst


def permitted(
    mode: str, budget_B: torch.Tensor, position_B: torch.Tensor, calls_B: torch.Tensor, burst: int = 0
) -> torch.Tensor:
    """Return the rows that may call now, bool `[B]`.

    Args:
        mode: `average` and `online`: every row with a budget above 0. `strict`: the rows in which the prefix that ends
            with the teacher's token keeps `teacher tokens <= floor(budget * tokens) + burst`.
        budget_B: Shares in [0, 1].
        position_B: Tokens written so far.
        calls_B: Tokens of these that the teacher wrote.
        burst: Teacher tokens that may be spent ahead of the budget, in strict mode.
    """
    check_choice("budget_mode", mode, MODES)
    has_budget_B = budget_B > 0
    if mode != "strict":
        return has_budget_B
    return has_budget_B & (calls_B + 1 <= strict_allowance(budget_B.double(), position_B + 1, burst))
