"""Batches, and what models write by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wheels.distillation.collate import Collator, count_targets, pad, target_states
from wheels.distillation.generation import cut, write
from wheels.distillation.losses import IGNORED
from wheels.models.build import ModelSize, build_model

TINY = ModelSize(width=16, layers=2, heads=2, ff=32)
ROWS = [{"source": [5, 6, 7], "target": [8, 1]}, {"source": [9], "target": [3, 4, 1]}]


def test_seq2seq_batch():
    batch = Collator(True, 0, (0,))(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["decoder_input_ids"].tolist() == [[0, 8, 0], [0, 3, 4]]
    assert batch["labels"].tolist() == [[8, 1, IGNORED], [3, 4, 1]]


def test_causal_batch():
    batch = Collator(False, 0)(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 1], [9, 3, 4, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED] * 3 + [8, 1], [IGNORED, 3, 4, 1, IGNORED]]
    chosen, targets = target_states(batch["labels"], is_seq2seq=False)
    assert chosen.nonzero().tolist() == [[0, 2], [0, 3], [1, 0], [1, 1], [1, 2]]
    assert targets.tolist() == [8, 1, 3, 4, 1]


@pytest.mark.parametrize("is_seq2seq", [True, False])
def test_sources_come_back(is_seq2seq):
    """Also where the source has the padding's id in it."""
    rows = [*ROWS, {"source": [0, 2, 0], "target": [1]}]
    collator = Collator(is_seq2seq, 0, (0,) if is_seq2seq else ())
    batch, untouched = collator(rows), collator(rows)
    assert collator.sources(batch) == [row["source"] for row in rows]
    assert all(torch.equal(batch[name], untouched[name]) for name in batch), "reading the sources changes nothing"
    assert count_targets([batch, batch]) == 12


def test_pad():
    assert pad([[1], [2, 3]], 9).tolist() == [[1, 9], [2, 3]]
    assert pad([[1], [2, 3]], 9, left=True).tolist() == [[9, 1], [2, 3]]
    assert pad([], 9).shape == (0, 0)
    assert pad([[], []], 9).shape == (2, 0)


def test_cut():
    assert cut([4, 1, 5, 1], (1, 7)) == [4, 1]
    assert cut([4, 7], (1, 7)) == [4, 7]
    assert cut([4], (1,)) == [4]
    assert cut([], (1,)) == []


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_written_in_batches_as_one_by_one(request, task, family):
    pair = request.getfixturevalue(family)
    pair.student = build_model(replace(TINY, dropout=0.5), family=family, vocab_size=pair.vocab_size)
    sources = pair.encode([row.source for row in task.train[:7]])
    options = {"pad_id": pair.pad_id, "eos_ids": pair.eos_ids, "max_new_tokens": 5}
    steps: list[int] = []
    pair.student.train()
    written = write(pair.student, sources, **options, batch_size=3, advance=steps.append)
    assert pair.student.training, "the mode is as before, though no dropout was at work"
    pair.student.eval()
    assert steps == [3, 3, 1]
    for source, output in zip(sources, written, strict=True):
        alone = pair.student.generate(torch.tensor([source]), max_new_tokens=5, do_sample=False)[0].tolist()
        assert output == cut(alone[1 if pair.is_seq2seq else len(source) :], (1,))
    assert write(pair.student, [], **options) == []


def test_ids_beyond_the_range_are_never_written(t5, task):
    sources = t5.encode([row.source for row in task.train[:4]])
    options = {"pad_id": 0, "eos_ids": (1,), "max_new_tokens": 20, "sample": True}
    assert max(token for row in write(t5.student, sources, **options) for token in row) >= 20
    assert max(token for row in write(t5.student, sources, **options, vocab_size=20) for token in row) < 20
