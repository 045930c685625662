"""The order of rows where batches hold rows of about one length."""

from __future__ import annotations

import random

import torch

from wheels.distillation.collate import Example
from wheels.distillation.sampler import LengthGroupedSampler

DRAW = random.Random(0)
EXAMPLES: list[Example] = [
    {"source": [1] * DRAW.randint(1, 30), "target": [1] * DRAW.randint(1, 30)} for _ in range(640)
]
BATCH = 8


def lengths(order: list[int]) -> list[int]:
    return [len(EXAMPLES[row]["source"]) + len(EXAMPLES[row]["target"]) for row in order]


def padded(order: list[int]) -> int:
    """Numbers in batches that are as wide as their longest row."""
    of = lengths(order)
    return sum(BATCH * max(of[start : start + BATCH]) for start in range(0, len(of), BATCH))


def test_every_row_comes_once_and_batches_hold_rows_of_one_length():
    order = list(LengthGroupedSampler(EXAMPLES, BATCH, seed=0))
    plain = list(range(len(EXAMPLES)))
    assert sorted(order) == plain
    assert len(LengthGroupedSampler(EXAMPLES, BATCH, seed=0)) == len(order)
    assert padded(order) < 1.06 * sum(lengths(order)) < padded(plain) / 1.2
    assert max(lengths(order)) == lengths(order)[0], "what does not fit into memory is seen at once"


def test_the_order_is_that_of_the_seed_and_the_epoch_alone():
    sampler = LengthGroupedSampler(EXAMPLES, BATCH, seed=0)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(2)
    third = list(sampler)
    assert third != first
    resumed = LengthGroupedSampler(EXAMPLES, BATCH, seed=0)
    resumed.set_epoch(2)
    assert list(resumed) == third
    assert list(LengthGroupedSampler(EXAMPLES, BATCH, seed=1)) != first


def test_batches_do_not_come_in_the_order_of_their_lengths():
    of = lengths(list(LengthGroupedSampler(EXAMPLES, BATCH, seed=0)))
    widths = torch.tensor([max(of[start : start + BATCH]) for start in range(0, len(of), BATCH)], dtype=torch.float)
    after = torch.corrcoef(torch.stack([widths[:-1], widths[1:]]))[0, 1]
    assert abs(after) < 0.25, "a batch is no longer or shorter for the one before it"
