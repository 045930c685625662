"""The state before the next token: what a rule, an agent and the deferral head see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from wheels.decoding.sampling import argmax
from wheels.policy.features import LOG_FLOOR, CopyFeatures, features


@dataclass(frozen=True)
class Step:
    """The state of B rows before their next token is written."""

    logits_BV: torch.Tensor
    """The student's logits of the next token, up to a constant of each row."""
    hidden_BD: torch.Tensor
    """What the student's output head read."""
    position_B: torch.Tensor
    """Tokens generated so far."""
    source_B: torch.Tensor
    """Tokens of the source, or of the prompt."""
    calls_B: torch.Tensor
    """Tokens of these that the teacher wrote."""
    budget_B: torch.Tensor
    """The teacher budget of each row, a share in [0, 1]."""
    index_B: torch.Tensor
    """Each row's place among the inputs: what tells one text from another."""
    noise: Callable[[torch.Tensor], torch.Tensor]
    """Draws each row's uniform number at a position `[B]`; only rules that draw pay for it."""
    copy_features: CopyFeatures
    """Gives the copy features of the best tokens of each text, while the rule decides; only rules that read features
    pay for it."""
    log_p_BV: torch.Tensor | None = None
    """The teacher's log-probabilities, nats; None where the rule does not need the teacher."""
    gain_B: torch.Tensor | None = None
    """The gain of the rule's head, nats, where the student's pass computed it."""

    @cached_property
    def log_q_BV(self) -> torch.Tensor:
        """The student's log-probabilities of the next token, in nats."""
        return self.logits_BV.log_softmax(-1)

    @cached_property
    def features_BF(self) -> torch.Tensor:
        """What the deferral head sees (`wheels.policy.features`)."""
        return features(self.hidden_BD, self.log_q_BV, self.position_B, self.source_B, self.copy_features)

    @cached_property
    def noise_B(self) -> torch.Tensor:
        """A uniform number in [0, 1) of the row and its position, for rules that draw."""
        return self.noise(self.position_B)

    @property
    def row_noise_B(self) -> torch.Tensor:
        """A uniform number in [0, 1) of the row alone: that of position 0."""
        return self.noise(torch.zeros_like(self.position_B))

    @property
    def regret_B(self) -> torch.Tensor:
        """The greedy regret `max_v log p(v) - log p(argmax q) >= 0`, in nats (`regret`)."""
        assert self.log_p_BV is not None, "this rule did not say that it needs the teacher"
        return regret(self.log_p_BV, self.log_q_BV)


def regret(log_p_BV: torch.Tensor, log_q_BV: torch.Tensor) -> torch.Tensor:
    """Compute what the student's greedy token costs: `max_v log p(v) - log p(argmax_v q(v))`, nats, >= 0, `[B]`.

    Log-probabilities are floored at `LOG_FLOOR`, so a regret is at most 20 nats.
    """
    floored_BV = log_p_BV.clamp(min=LOG_FLOOR)
    chosen_B = floored_BV.gather(-1, argmax(log_q_BV)[..., None]).squeeze(-1)
    return floored_BV.amax(-1) - chosen_B
