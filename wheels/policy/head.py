"""The deferral head: a small network that predicts the gain of a call from the student's features."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wheels.policy.features import CANDIDATES

EMBEDDING_STD = 0.1
"""Of the tokens' embeddings at the start: small beside the standardised features."""


@dataclass(frozen=True)
class HeadConfig:
    """The shape of a `DeferralHead`."""

    features: int
    """Entries of a state's features that are read as numbers, the first ones (`wheels.policy.features`)."""
    width: int = 256
    """Units of each hidden layer."""
    candidates: int = 0
    """Tokens at the end of the features; each is looked up in an embedding of the head's own."""
    vocab_size: int = 0
    """V, rows of that embedding."""
    embedding: int = 16
    """Its width."""
    shift_reads: str = "trunk"
    """What `shift(s, b)` reads beside the budget: the `trunk`'s units, or the `numbers` and the base gain itself."""

    @classmethod
    def of(cls, features: int, vocab_size: int, width: int = 256) -> HeadConfig:
        """Return the configuration of a head for `features` entries: numbers, and `CANDIDATES` tokens."""
        return cls(features - CANDIDATES, width, CANDIDATES, vocab_size, shift_reads="numbers")


class DeferralHead(nn.Module):
    """The expected gain of a call at a state under a budget, before its price, in nats.

    `gain(s, b) = base(s) + shift(s, b)`: the base is what the warm start regresses; the shift is for a budget, and is 0
    until it is fitted. Features are standardised by statistics kept in the head; it also reads an embedding of the
    tokens that the student is about to choose from. With a price, `z = (gain - price) / alpha` is the call's logit.
    """

    mean_F: torch.Tensor
    scale_F: torch.Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean_F", torch.zeros(config.features))
        self.register_buffer("scale_F", torch.ones(config.features))
        self.token: nn.Embedding | None = None
        if config.candidates:
            self.token = nn.Embedding(config.vocab_size, config.embedding)
            nn.init.normal_(self.token.weight, std=EMBEDDING_STD)
        self.trunk = _mlp(config.features + config.candidates * config.embedding, config.width, config.width)
        self.base = nn.Linear(config.width, 1)
        read = config.width if config.shift_reads == "trunk" else config.features + 1
        self.shift = _mlp(read + 1, config.width // 4, 1)
        for parameter in self.shift[-1].parameters():
            nn.init.zeros_(parameter)

    def gain(self, features_BF: torch.Tensor, budget_B: torch.Tensor) -> torch.Tensor:
        """Compute the gain, nats, `[...]`.

        Args:
            features_BF: Features of any leading shape `[..., F]` (`wheels.policy.features`).
            budget_B: The teacher budget given to the head, a share, `[...]`.
        """
        return self._gain(self._scaled(features_BF), features_BF, budget_B.to(self.mean_F.dtype)[..., None])

    def _scaled(self, features_BF: torch.Tensor) -> torch.Tensor:
        """Return the standardised numeric features."""
        return (features_BF[..., : self.config.features] - self.mean_F) / self.scale_F

    def _gain(self, scaled_BF: torch.Tensor, features_BF: torch.Tensor, budget_B1: torch.Tensor) -> torch.Tensor:
        """Return the base and its shift."""
        hidden_BD = functional.gelu(_run(self.trunk, self._with_tokens(scaled_BF, features_BF)))
        base_B1 = functional.linear(hidden_BD, self.base.weight, self.base.bias)
        read_BR = (hidden_BD,) if self.config.shift_reads == "trunk" else (base_B1, scaled_BF)
        return (base_B1 + _run(self.shift, torch.cat([*read_BR, budget_B1], -1))).squeeze(-1)

    def _with_tokens(self, scaled_BF: torch.Tensor, features_BF: torch.Tensor) -> torch.Tensor:
        """Return the numeric features followed by the embedded tokens."""
        if self.token is None:
            return scaled_BF
        token_BK = features_BF[..., -self.config.candidates :].long()
        return torch.cat(
            [scaled_BF, functional.embedding(token_BK, self.token.weight).flatten(-2).to(scaled_BF.dtype)], -1
        )

    def standardise(self, features_NF: torch.Tensor) -> None:
        """Fit mean and standard deviation to these states; constant entries stay unscaled."""
        features_NF = features_NF[:, : self.config.features]
        self.mean_F.copy_(features_NF.mean(0))
        deviation_F = features_NF.std(0)
        self.scale_F.copy_(torch.where(deviation_F > 1e-6, deviation_F, torch.ones_like(deviation_F)))

    def regressed(self) -> list[nn.Parameter]:
        """Return the parameters of `base(s)`: what the warm start fits."""
        parts = [self.trunk, self.base, *([] if self.token is None else [self.token])]
        return [parameter for part in parts for parameter in part.parameters()]

    def frozen_copy(self) -> DeferralHead:
        """Return a frozen copy."""
        return copy.deepcopy(self).requires_grad_(False).eval()


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, outputs))


def _run(mlp: Iterable[Any], values_NX: torch.Tensor) -> torch.Tensor:
    """Apply an `_mlp` by hand: for a few rows, calling its modules costs more than the arithmetic."""
    first, _, second = mlp
    hidden_ND = functional.gelu(functional.linear(values_NX, first.weight, first.bias))
    return functional.linear(hidden_ND, second.weight, second.bias)
