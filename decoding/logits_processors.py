"""What changes the scores of a model before a token is chosen: its own settings, or what a caller asks for."""

from __future__ import annotations

from typing import Protocol

import torch

from wheels.decoding.sequences import TextBatch
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair


class LogitsProcessor(Protocol):
    """Changes the scores of one model before a token is drawn from them."""

    def __call__(
        self, logits_NV: torch.Tensor, texts: TextBatch, slot_N: torch.Tensor, position_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores `[N, V]` of places in texts: after `position` tokens of the output in `slot`."""


class OwnLogitsProcessor:
    """What the generation settings of a model itself forbid or force."""

    def __init__(self, constraints: Constraints) -> None:
        self.constraints = constraints

    def __call__(
        self, logits_NV: torch.Tensor, texts: TextBatch, slot_N: torch.Tensor, position_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits with forbidden tokens at minus infinity."""
        return self.constraints.apply(logits_NV, position_N, texts.limit_S[slot_N])


def logits_processors_of(pair: Pair) -> tuple[LogitsProcessor, LogitsProcessor]:
    """Return the shapers of student and teacher: each model's own settings."""
    return OwnLogitsProcessor(Constraints.of(pair.student)), OwnLogitsProcessor(Constraints.of(pair.teacher))
