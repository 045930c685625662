"""Batches: ragged examples become padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
from torch.nn import functional

from wheels.distillation.alignment import NOWHERE
from wheels.distillation.losses import IGNORED
from wheels.models.pair import Pair

Batch = dict[str, torch.Tensor]
OF_TEACHER = "teacher_"
"""How the inputs of a teacher with a tokenizer of its own are called in a batch, before their own names."""


class Example(TypedDict):
    """One training row, as tokens."""

    source: list[int]
    """What the model reads: the encoder's input, or the prompt of a causal model."""
    target: list[int]
    """What it should write, with the end token."""
    row: NotRequired[int]
    """Its place among the training rows, where a cache of teacher probabilities asks for it."""
    rationale: NotRequired[Example]
    """The same row's second task, if it has one: see `dual`."""
    teacher: NotRequired[Example]
    """The same row in the tokens of a teacher that has its own."""
    places: NotRequired[list[tuple[int, int]]]
    """Where both spellings of its target meet (`alignment.common_places`)."""


@dataclass(frozen=True)
class Collator:
    """Pads examples at the right."""

    is_seq2seq: bool
    """Whether the source goes to an encoder; else source and target are one sequence."""
    pad_id: int
    """What fills up short rows."""
    start_ids: tuple[int, ...] = ()
    """What the decoder of a sequence-to-sequence model reads first."""
    other: Collator | None = None
    """Of a teacher with a tokenizer of its own."""

    @classmethod
    def of(cls, pair: Pair, other: Pair | None = None) -> Collator:
        """Return the collator for a pair's models, and for a teacher with a tokenizer of its own."""
        return cls(pair.is_seq2seq, pair.pad_id, pair.start_ids, None if other is None else cls.of(other))

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Return the model's input tensors, and `labels`.

        Sequence-to-sequence: `input_ids` and `attention_mask` [B, S]; `decoder_input_ids` and `labels` [B, T], where
        the decoder reads the labels one step late. Causal: `input_ids`, `attention_mask`, `labels` [B, S + T]; the
        label of position t is the token at t (compare it with the logits of t - 1), and `IGNORED` in the prompt.
        `rows` [B] where the examples say which row they are. Where they have a teacher's spelling, its input tensors
        too, after `OF_TEACHER`, and `places` [B, A, 2], the student's first.

        Where some example has a rationale, all of them come after the B rows as rows of their own, and `is_rationale`
        says which those are.
        """
        seconds = [example["rationale"] for example in examples if "rationale" in example]
        batch = self._tensors([*examples, *seconds])
        if seconds:
            batch["is_rationale"] = torch.arange(len(examples) + len(seconds)) >= len(examples)
        if self.other is not None and all("teacher" in example for example in examples):
            theirs = self.other([example["teacher"] for example in examples])
            batch |= {OF_TEACHER + name: tensor for name, tensor in theirs.items()}
            sides = ([[place[side] for place in example["places"]] for example in examples] for side in (0, 1))
            batch["places"] = torch.stack([pad(side, NOWHERE) for side in sides], dim=-1)
        rows = [example["row"] for example in examples if "row" in example]
        return batch | ({"rows": torch.tensor(rows, dtype=torch.long)} if rows else {})

    def _tensors(self, examples: Sequence[Example]) -> Batch:
        """Return the model's inputs, and `labels`."""
        sources = [example["source"] for example in examples]
        targets = [example["target"] for example in examples]
        if self.is_seq2seq:
            late = [[*self.start_ids, *target][: len(target)] for target in targets]
            return {
                "input_ids": pad(sources, self.pad_id),
                "attention_mask": pad([[1] * len(source) for source in sources], 0),
                "decoder_input_ids": pad(late, self.pad_id),
                "labels": pad(targets, IGNORED),
            }
        whole = [source + target for source, target in zip(sources, targets, strict=True)]
        labels = [[IGNORED] * len(source) + target for source, target in zip(sources, targets, strict=True)]
        return {
            "input_ids": pad(whole, self.pad_id),
            "attention_mask": pad([[1] * len(row) for row in whole], 0),
            "labels": pad(labels, IGNORED),
        }

    def sources(self, batch: Batch) -> list[list[int]]:
        """Return the sources of a batch."""
        read = batch["attention_mask"].bool()
        if not self.is_seq2seq:
            read &= batch["labels"] == IGNORED
        return [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], read, strict=True)]


def pad(rows: Sequence[Sequence[int]], filler: int, *, left: bool = False) -> torch.Tensor:
    """Return ragged rows as one tensor [B, longest], filled up at the right (or left)."""
    length = max((len(row) for row in rows), default=0)
    full = [
        [filler] * (length - len(row)) + [*row] if left else [*row] + [filler] * (length - len(row)) for row in rows
    ]
    return torch.tensor(full, dtype=torch.long).reshape(len(rows), length)


def pad_with_mask(
    rows: Sequence[Sequence[int]], filler: int, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ragged rows as one padded tensor and its mask (1 where real), both [B, longest]."""
    return pad(rows, filler, left=left), pad([[1] * len(row) for row in rows], 0, left=left)


def target_states(labels_BT: torch.Tensor, *, is_seq2seq: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which states predict a target, bool `[B, T]`, and those targets, `[N]`, row by row."""
    next_BT = labels_BT if is_seq2seq else functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)
    chosen_BT = next_BT != IGNORED
    return chosen_BT, next_BT[chosen_BT]


def count_targets(batches: Sequence[Batch]) -> int:
    """Return how many tokens of the batches are targets."""
    return sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
