"""A GPU without memory for a pass: its halves are read, with the same result, and no larger pass is tried again."""

from typing import Any

import pytest
import torch

from tests.decoding.test_engine import TEXTS
from tests.decoding.tiny import FAMILIES, SEQ2SEQ, VOCABULARY, make_model, make_pair, write
from wheels.decoding.methods.method import speculative
from wheels.decoding.models.runner import Runner
from wheels.output.notices import warn_once

ROWS, LENGTH = 7, 20


class Small:
    """A backend of a GPU that holds passes of `most` rows, and encodes as many padded tokens of sources."""

    def __init__(self, backend, most: int, tokens: int = 10**9) -> None:
        self.backend, self.most, self.tokens = backend, most, tokens
        self.tried: list[int] = []
        self.encoded: list[int] = []

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def forward(self, tokens_RK, cache, inputs, keep):
        self.tried.append(len(inputs.rows))
        if len(inputs.rows) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.backend.forward(tokens_RK, cache, inputs, keep)

    @property
    def encoder(self):
        return self.encode if self.backend.encoder is not None else None

    def encode(self, ids_RS, seen_RS):
        self.encoded.append(ids_RS.numel())
        if ids_RS.numel() > self.tokens:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return self.backend.encoder(ids_RS, seen_RS)


def runner_of(family: str, **limits: int) -> Runner:
    runner = Runner(make_model(family, 16, seed=1), ROWS, VOCABULARY, fast=False)
    runner.admit(range(ROWS), [[3 + row] * (row + 2) for row in range(ROWS)])
    if limits:
        small: Any = Small(runner.backend, **limits)
        runner.backend = small
    return runner


def tried_by(runner: Runner) -> list[int]:
    backend: Any = runner.backend
    return list(backend.tried)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_halves_of_a_pass_give_what_the_whole_gives(family):
    whole, halved = runner_of(family), runner_of(family, most=2)
    texts_BT = torch.randint(2, VOCABULARY, (ROWS, LENGTH))
    for lengths, rows_R, keep_R in (
        ([3, 1, 4, 1, 5, 2, 6], None, None),
        ([4, 2, 5, 2, 6, 3, 7], None, torch.ones(ROWS, dtype=torch.long)),
        ([9, 2, 6, 7, 8, 3, 7], torch.tensor([4, 0, 3, 2]), torch.tensor([2, 4, 3, 1])),
    ):
        outputs = [each.read(rows_R, texts_BT, torch.tensor(lengths), keep_R) for each in (whole, halved)]
        torch.testing.assert_close(outputs[1].logits_RV, outputs[0].logits_RV)
        torch.testing.assert_close(outputs[1].hidden_RD, outputs[0].hidden_RD)
        assert halved.cursor_B.equal(whole.cursor_B)


def test_a_pass_that_failed_is_not_tried_again():
    runner = runner_of("llama", most=2)
    texts_BT = torch.randint(2, VOCABULARY, (ROWS, LENGTH))
    runner.read(None, texts_BT, torch.full((ROWS,), 1))
    assert tried_by(runner) == [7, 3, *[1] * ROWS] and runner.most_rows == 1
    runner.read(None, texts_BT, torch.full((ROWS,), 2))
    assert tried_by(runner)[2 + ROWS :] == [1] * ROWS


def test_memory_that_holds_no_single_row_ends_it():
    runner = runner_of("llama", most=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        runner.read(None, torch.randint(2, VOCABULARY, (ROWS, LENGTH)), torch.full((ROWS,), 1))


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_sources_are_encoded_in_halves_too_and_none_twice(family):
    whole, halved = runner_of(family), runner_of(family, most=ROWS, tokens=20)
    texts_BT = torch.randint(2, VOCABULARY, (ROWS, LENGTH))
    outputs = [each.read(None, texts_BT, torch.full((ROWS,), 2)).logits_RV for each in (whole, halved)]
    torch.testing.assert_close(outputs[1], outputs[0])
    backend: Any = halved.backend
    fitting = [count for count in backend.encoded if count <= 20]
    assert halved.encoder_chunk <= 32 and len(fitting) <= ROWS
    halved.read(None, texts_BT, torch.full((ROWS,), 3))
    assert len(backend.encoded) == len(fitting) + 5, "five were too long, and none is encoded again"


def test_a_source_that_has_a_pass_of_its_own_and_no_memory_ends_it():
    runner = runner_of("t5", most=ROWS, tokens=4)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        runner.read(None, torch.randint(2, VOCABULARY, (ROWS, LENGTH)), torch.full((ROWS,), 1))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_texts_are_the_same_with_little_memory_and_it_is_said_once(family, monkeypatch, caplog):
    warn_once.cache_clear()
    pair = make_pair(family)
    expected = write(pair, TEXTS, speculative(3), budget=None, max_new_tokens=8)
    own = Runner.refresh

    def refresh(runner, **told):
        own(runner, **told)
        if not isinstance(runner.backend, Small):
            small: Any = Small(runner.backend, most=3)
            runner.backend = small

    monkeypatch.setattr(Runner, "refresh", refresh)
    traces = write(pair, TEXTS, speculative(3), budget=None, max_new_tokens=8)
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in expected]
    said = [record.message for record in caplog.records if "memory is full" in record.message]
    assert said and len(said) == len(set(said))
    assert said[0].startswith("the GPU's memory is full: a pass reads at most ")
