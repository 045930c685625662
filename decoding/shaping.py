"""Scores as a text's own settings have them: what is forbidden or forced, or a caller's processors."""

from __future__ import annotations

from typing import Protocol

import torch
from transformers import LogitsProcessorList

from wheels.decoding.constraints import Constraints
from wheels.decoding.state import Slots
from wheels.pair import Pair


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
        """Return the scores with what is forbidden at minus infinity."""
        return self.constraints.apply(scores_NV, position_N, slots.limit_S[slot_N])


class Processors:
    """transformers' processors, which read the whole text: one place at a time."""

    def __init__(self, processors: LogitsProcessorList) -> None:
        self.processors = processors

    def __call__(
        self, scores_NV: torch.Tensor, slots: Slots, slot_N: torch.Tensor, position_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores as the processors change them."""
        places = zip(slot_N.tolist(), position_N.tolist(), scores_NV.split(1), strict=True)
        # Processors are typed for a LongTensor, which no function returns.
        return torch.cat([self.processors(slots.text(slot, written), row_1V) for slot, written, row_1V in places])  # type: ignore[arg-type]


def shapers_of(pair: Pair, processors: LogitsProcessorList | None) -> tuple[Shaper, Shaper]:
    """Return the shapers of student and teacher: the caller's processors for both, or each model's own settings."""
    if processors is not None:
        return Processors(processors), Processors(processors)
    return OwnSettings(Constraints.of(pair.student)), OwnSettings(Constraints.of(pair.teacher))
