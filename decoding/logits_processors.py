"""What changes the scores of a model before a token is chosen: its own settings, or what a caller asks for."""

from __future__ import annotations

from typing import Protocol

import torch

from wheels.decoding.sequences import Slots
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair


class Shaper(Protocol):
    """Changes the scores of one model before a token is drawn from them."""

    def __call__(
        self, scores_NV: torch.Tensor, slots: Slots, slot_N: torch.Tensor, position_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores `[N, V]` of places in texts: after `position` tokens of the output in `slot`."""


class OwnSettings:
    """What the generation settings of a model itself forbid or force."""

    def __init__(self, constraints: Constraints) -> None:
        self.constraints = constraints

    def __call__(
        self, scores_NV: torch.Tensor, slots: Slots, slot_N: torch.Tensor, position_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits with forbidden tokens at minus infinity."""
        return self.constraints.apply(scores_NV, position_N, slots.limit_S[slot_N])


def shapers_of(pair: Pair) -> tuple[Shaper, Shaper]:
    """Return the shapers of student and teacher: each model's own settings."""
    return OwnSettings(Constraints.of(pair.student)), OwnSettings(Constraints.of(pair.teacher))
