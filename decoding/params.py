"""What a caller asks of every text, whatever the method: its length, how tokens are drawn, what changes the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from wheels.decoding.sampling import GREEDY, Sampling
from wheels.decoding.sequences import TextBatch
from wheels.errors import check_kind, check_whole

STUDENT_STREAM, TEACHER_STREAM, RULE_STREAM, ACCEPT_STREAM = range(4)
"""The streams of a row's noise: what each is drawn for."""
LONGEST_OUTPUT = 2**20
"""Tokens of an output at most: there is room for all of them from the start, in each row."""
LARGEST_SEED = 2**60
"""Four streams of each seed are counted apart in 64 bits."""


class LogitsProcessor(Protocol):
    """Changes the logits of a model before a token is chosen from them."""

    def __call__(
        self, logits_NV: torch.Tensor, texts: TextBatch, slot_N: torch.Tensor, position_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits `[N, V]` of N states: after `position` tokens of the output in `slot`."""


@dataclass(frozen=True)
class DecodeParams:
    """How to decode, beside the method and its budget."""

    max_new_tokens: int = 128
    """The most tokens of an output."""
    sampling: Sampling = GREEDY
    """How tokens are drawn."""
    seed: int = 0
    """The seed of all draws."""
    first: int = 0
    """The index of the first source, where the sources are a part of many: draws depend on it, and so do errors."""
    logits_processor: LogitsProcessor | None = None
    """Changes the logits of both models, in place of the models' own settings."""
    stopping: Callable[[int, list[int]], bool] | None = None
    """Tells of an output, by its row's index and its tokens so far, whether it is to end there."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_whole("max_new_tokens", self.max_new_tokens, 1, LONGEST_OUTPUT)
        check_whole("seed", self.seed, 0, LARGEST_SEED)
        check_whole("first", self.first)
        check_kind("sampling", self.sampling, Sampling, "a Sampling, such as Sampling(temperature=0.7)")
        for name in ("logits_processor", "stopping"):
            check_kind(name, getattr(self, name), (Callable, type(None)), "a function, or None")
