"""What a model computes for some rows of texts, and how the outputs of several passes become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Output:
    """What a model computes after the last token that each row read, or after several of the last ones."""

    logits_RV: torch.Tensor
    """Of the next token, float32, over the pair's common vocabulary; `[R, W, V]` where W positions are kept."""
    hidden_RD: torch.Tensor
    """What the output head read, the last hidden state, float32; `[R, W, D]` where W positions are kept."""
    gain_R1: torch.Tensor | None = None
    """The gain of a deferral head within the pass, nats."""

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that there are."""
        return [each for each in (self.logits_RV, self.hidden_RD, self.gain_R1) if each is not None]

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Output:
        """Return the same of other rows or positions."""
        return Output(*map(change, self.tensors))


def joined(parts: list[tuple[list[int], Output]]) -> Output:
    """Put the outputs of several passes at the places of their rows."""
    results = zip(*(output.tensors for _, output in parts), strict=True)
    places = [places for places, _ in parts]
    return Output(*(_placed(list(zip(places, each, strict=True))) for each in results))


def _placed(parts: list[tuple[list[int], torch.Tensor]]) -> torch.Tensor:
    """Put `[rows, W, X]` of several passes at the rows' places; one that keeps fewer positions repeats its last."""
    width, first = max(part.shape[1] for _, part in parts), parts[0][1]
    joined_RWX = first.new_empty(sum(len(places) for places, _ in parts), width, first.shape[2])
    for places, part in parts:
        joined_RWX[places, : part.shape[1]] = part
        joined_RWX[places, part.shape[1] :] = part[:, -1:]
    return joined_RWX
