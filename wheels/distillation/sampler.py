"""The order of the training rows, where batches hold rows of about the same length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import cast

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from wheels.distillation.collate import Example


class LengthGroupedSampler(Sampler[int]):
    """Rows in random order, sorted by length within stretches of 50 batches; batches too, but the longest first.

    A batch is as wide as its longest row, so rows of equal lengths need less padding. transformers' own sampler leaves
    the batches sorted too: lengths then fall and jump every 50 steps, and the weights follow them. The order depends on
    the seed and the epoch alone: a resumed run reads the rows that the whole run would have read (transformers' own
    draws from the global generator).

    Args:
        examples: The rows.
        batch_size: Rows of one optimizer step.
        seed: Of the order.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, seed: int) -> None:
        self.lengths = [len(example["source"]) + len(example["target"]) for example in examples]
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the trainer calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the rows' places."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        rows = cast(list[int], get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
        longest, *batches = [rows[first : first + self.batch_size] for first in range(0, len(rows), self.batch_size)]
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch_size else []  # elsewhere it shifts the rest
        order = torch.randperm(len(batches), generator=generator).tolist()
        yield from chain(longest, *(batches[place] for place in order), *last)
