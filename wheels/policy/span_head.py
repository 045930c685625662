"""The span head: what a call gains that buys several tokens, and how many of them it is expected to write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from wheels.policy.features import CANDIDATES, SCALARS

WIDTH = 64
"""Units of the hidden layer: most of a span's gain is luck, and most of the rest follows from what is left to write."""


class SpanHead(nn.Module):
    """For each of K spans the gain beyond that of one token, nats, and the tokens that are written.

    It reads the features that follow the hidden state (`wheels.policy.features.SCALARS`), and the budget.

    Args:
        spans: Tokens that a call may buy beside one, in rising order.
    """

    spans_K: torch.Tensor
    mean_F: torch.Tensor
    scale_F: torch.Tensor
    centre_Y: torch.Tensor
    unit_Y: torch.Tensor

    def __init__(self, spans: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("spans_K", torch.tensor(list(spans)))
        self.register_buffer("mean_F", torch.zeros(len(SCALARS)))
        self.register_buffer("scale_F", torch.ones(len(SCALARS)))
        self.register_buffer("centre_Y", torch.zeros(2 * len(spans)))
        self.register_buffer("unit_Y", torch.ones(2 * len(spans)))
        self.net = nn.Sequential(nn.Linear(len(SCALARS) + 1, WIDTH), nn.GELU(), nn.Linear(WIDTH, 2 * len(spans)))

    def forward(self, features_BF: torch.Tensor, budget_B: torch.Tensor) -> torch.Tensor:
        """Compute the gains beyond that of one token, then the tokens that are written, `[B, 2 K]`."""
        scaled_BF = (self.numbers(features_BF) - self.mean_F) / self.scale_F
        told_BF = torch.cat([scaled_BF, budget_B.to(scaled_BF.dtype)[:, None]], -1)
        found_BY: torch.Tensor = self.net(told_BF) * self.unit_Y + self.centre_Y
        return found_BY

    @torch.no_grad()
    def expected(self, features_BF: torch.Tensor, budget_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gains beyond that of one token `[B, K]`, nats, and the tokens that are written `[B, K]`."""
        more_BK, written_BK = self(features_BF, budget_B).chunk(2, -1)
        return more_BK, torch.minimum(written_BK.clamp(min=1.0), self.spans_K)

    def numbers(self, features_BF: torch.Tensor) -> torch.Tensor:
        """Return what it reads of the features."""
        return features_BF[:, -len(SCALARS) - CANDIDATES : -CANDIDATES]

    def standardise(self, features_NF: torch.Tensor, target_NY: torch.Tensor) -> None:
        """Fit mean and deviation of its inputs, and those of its outputs, to these states."""
        numbers_NF = self.numbers(features_NF)
        self.mean_F.copy_(numbers_NF.mean(0))
        self.scale_F.copy_(numbers_NF.std(0).clamp(min=1e-6))
        self.centre_Y.copy_(target_NY.mean(0))
        self.unit_Y.copy_(target_NY.std(0).clamp(min=1e-6))
