"""The deferral head: a small network on the student's features that says what a call is worth."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class HeadConfig:
    """The shape of a `DeferralHead`."""

    features: int
    """Entries of a state's features (`wheels.features`)."""
    width: int = 256
    """Units of each hidden layer."""


@dataclass(frozen=True)
class HeadOutput:
    """What the head says of N states."""

    gain_B: torch.Tensor
    """The expected gain of a call before its price, in nats."""
    value_B: torch.Tensor
    """The soft value `V(s, b)` of the state, in nats."""
    cost_B: torch.Tensor
    """The cost-to-go `V_C(s, b)`: teacher tokens that will still be written."""
    after_write_B: torch.Tensor
    """The expected soft value of the next state if the student writes, in nats."""
    after_call_B: torch.Tensor
    """The same if the teacher is called."""

    def call_logit(self, price_B: torch.Tensor | float, alpha: float) -> torch.Tensor:
        """Compute `z = (gain - price) / alpha`, the logit of the call's probability."""
        return (self.gain_B - price_B) / alpha


class DeferralHead(nn.Module):
    """Gain, value and cost-to-go of a state under a budget.

    `gain(s, b) = base(s) + shift(s, b)`: the base is what the warm start regresses; the shift is what the agent adds
    for a budget, and is 0 until it learns. Value and cost-to-go have layers of their own, so that fitting them does
    not move the gate (as in OREO, Wang et al. 2024). Features are standardised by statistics kept in the head.
    """

    mean_F: torch.Tensor
    scale_F: torch.Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean_F", torch.zeros(config.features))
        self.register_buffer("scale_F", torch.ones(config.features))
        self.trunk = _mlp(config.features, config.width, config.width)
        self.base = nn.Linear(config.width, 1)
        self.shift = _mlp(config.width + 1, config.width // 4, 1)
        self.critic = _mlp(config.features + 1, config.width, 4)
        for parameter in self.shift[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features_BF: torch.Tensor, budget_B: torch.Tensor) -> HeadOutput:
        """Compute gain, value and cost-to-go.

        Args:
            features_BF: Features of any leading shape `[..., F]`.
            budget_B: The teacher budget told to the head, a share, `[...]`.
        """
        scaled_BF = (features_BF - self.mean_F) / self.scale_F
        budget_B1 = budget_B.to(scaled_BF.dtype)[..., None]
        hidden_BW = nn.functional.gelu(self.trunk(scaled_BF))
        gain_B = self.base(hidden_BW).squeeze(-1) + self.shift(torch.cat([hidden_BW, budget_B1], -1)).squeeze(-1)
        critic_B4 = self.critic(torch.cat([scaled_BF, budget_B1], -1))
        return HeadOutput(gain_B, *critic_B4.unbind(-1))

    def standardise(self, features_NF: torch.Tensor) -> None:
        """Take mean and standard deviation from these states; entries that never vary are left as they are."""
        self.mean_F.copy_(features_NF.mean(0))
        deviation_F = features_NF.std(0)
        self.scale_F.copy_(torch.where(deviation_F > 1e-6, deviation_F, torch.ones_like(deviation_F)))

    def twin(self) -> DeferralHead:
        """Return a copy that is not trained: a target network, or a reference to stay near."""
        return copy.deepcopy(self).requires_grad_(False).eval()


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, outputs))
