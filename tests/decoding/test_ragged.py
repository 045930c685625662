"""Ragged caches in long random walks, in float32 and bfloat16, against reading from scratch; and what they copy."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from tests.decoding.tiny import FAMILIES, SEQ2SEQ, VOCABULARY, at_positions, make_model, restless
from tests.envs.tiny import gpt2
from wheels.decoding.models import cache
from wheels.decoding.models.cache import cache_argument
from wheels.decoding.models.runner import Runner

ROWS, LENGTH = 4, 30
ROUNDS = 300
FLOAT32 = 1e-4
"""Of the largest score. Float32 rounds by 6e-8, and restless weights make up to a hundredfold of that in a few layers;
a wrong position or a token too many changes scores by a tenth and more."""
ROUNDINGS = 0.5
"""In bfloat16, in units of e, the r.m.s. error that reading from scratch makes against the exact scores of the same
weights: both paths round the same sums, some in another order, so they lie closer to each other than to the truth."""


@torch.no_grad()
def scores(model: PreTrainedModel, sources: list[list[int]], texts_BT: torch.Tensor) -> torch.Tensor:
    """Return the scores after every token of every text, read from scratch, `[B, T, V]`."""
    if not model.config.is_encoder_decoder:
        return model(input_ids=texts_BT, use_cache=False).logits.double()
    width = max(map(len, sources))
    ids = torch.tensor([[*source, *[0] * (width - len(source))] for source in sources])
    mask = torch.tensor([[1] * len(source) + [0] * (width - len(source)) for source in sources])
    return model(input_ids=ids, attention_mask=mask, decoder_input_ids=texts_BT, use_cache=False).logits.double()


@dataclass
class Walk:
    """Reads and rollbacks at random, and what they said beside what they should."""

    family: str
    dtype: torch.dtype
    rounds: int
    tamper: Callable[[Runner], None] = lambda runner: None
    said: list[torch.Tensor] = field(default_factory=list)
    scratch: list[torch.Tensor] = field(default_factory=list)
    exact: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = make_model(self.family, 16, seed=1).to(self.dtype)
        self.truth = make_model(self.family, 16, seed=1).to(self.dtype).double()
        self.sources = [torch.randint(2, VOCABULARY, (length,)).tolist() for length in (3, 9, 5, 12)]
        self.texts_BT = torch.randint(2, VOCABULARY, (ROWS, LENGTH))
        self.runner = Runner(self.model, ROWS, VOCABULARY, overhead=1, chunk=4)
        self.runner.journal = []
        self.runner.admit(range(ROWS), self.sources)
        self.tamper(self.runner)
        self.tables()

    def tables(self) -> None:
        """Read all texts from scratch."""
        self.scratch_BTV = scores(self.model, self.sources, self.texts_BT)
        self.exact_BTV = self.scratch_BTV
        if self.dtype == torch.bfloat16:
            self.exact_BTV = scores(self.truth, self.sources, self.texts_BT)

    def run(self) -> "Walk":
        for turn in range(self.rounds):
            rows_R = None if turn % 7 == 0 else torch.randperm(ROWS)[: int(torch.randint(1, ROWS + 1, ()))]
            rows = list(range(ROWS)) if rows_R is None else rows_R.tolist()
            full = [row for row in rows if self.runner.cursor_B[row] > LENGTH - 6]
            if turn % 4 == 3 or full:
                self.roll_back(rows)
            else:
                self.read(rows_R, rows, wanted=turn % 2 == 0)
        return self

    def roll_back(self, rows: list[int]) -> None:
        """Take tokens back, and put others there."""
        rows_R = torch.tensor(rows)
        length_R = (torch.rand(len(rows)) * self.runner.cursor_B[rows_R]).long()
        self.runner.rollback(rows_R, length_R)
        for row, length in zip(rows, length_R.tolist(), strict=True):
            assert self.runner.cursor_B[row] == length
            self.texts_BT[row, length:] = torch.randint(2, VOCABULARY, (LENGTH - length,))
        self.tables()

    def read(self, rows_R: torch.Tensor | None, rows: list[int], *, wanted: bool) -> None:
        """Read other numbers of tokens in each row, and note all scores that are wanted."""
        counts = torch.randint(1, 6, (len(rows),))
        wanted_R = (torch.rand(len(rows)) * counts).long() + 1 if wanted else None
        length_B = self.runner.cursor_B.clone()
        length_B[rows] += counts
        logits = self.runner.read(rows_R, self.texts_BT, length_B, wanted_R).logits_RV
        assert self.runner.cursor_B.equal(length_B)
        for place, row in enumerate(rows):
            end, number = int(length_B[row]), int(wanted_R[place]) if wanted_R is not None else 1
            self.said.append(logits[place].view(-1, VOCABULARY)[:number].double())
            self.scratch.append(self.scratch_BTV[row, end - number : end])
            self.exact.append(self.exact_BTV[row, end - number : end])

    def worst(self) -> float:
        """The largest error of any score, in parts of the largest score."""
        said, scratch = torch.cat(self.said), torch.cat(self.scratch)
        return float((said - scratch).abs().max() / scratch.abs().max())

    def roundings(self) -> float:
        """The difference of both paths, in errors of the path from scratch."""
        said, scratch, exact = (torch.cat(rows) for rows in (self.said, self.scratch, self.exact))
        return float((said - scratch).square().mean().sqrt() / (scratch - exact).square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_walk_in_float32_is_reading_from_scratch(family):
    walk = Walk(family, torch.float32, ROUNDS).run()
    assert walk.worst() < FLOAT32
    assert max(map(len, walk.said)) > 1 and len(walk.said) > ROUNDS
    assert {each.rows for each in walk.runner.journal} == {1, 2, 3, 4}, "reads in parts, and of all rows"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_walk_in_bfloat16_is_off_by_its_rounding_alone(family):
    assert Walk(family, torch.bfloat16, ROUNDS // 5).run().roundings() < ROUNDINGS


def sees_all(runner: Runner) -> None:
    """A mistake: what was rolled back, or never written, is seen."""
    runner.backend = runner.library
    right = runner.library._mask
    runner.library._mask = lambda allowed_RKL, packing: right(torch.ones_like(allowed_RKL), packing)


def one_off(runner: Runner) -> None:
    """A mistake: every position is one too far."""
    runner.backend = runner.library
    right = runner.library.positions
    runner.library.positions = lambda inputs: right(
        at_positions(inputs, inputs.positions_RK + (inputs.positions_RK > 3))
    )


@pytest.mark.parametrize("tamper", [sees_all, one_off])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_mask_or_position_is_seen(family, tamper):
    """The negative control of the walks."""
    assert Walk(family, torch.float32, 16, tamper).run().worst() > 100 * FLOAT32
    assert Walk(family, torch.bfloat16, 16, tamper).run().roundings() > 2 * ROUNDINGS


def long_model(family: str) -> tuple[PreTrainedModel, int]:
    """Return a model, and how many steps its positions allow."""
    if family == "gpt2":
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return restless(gpt2(16, positions=256)).double().eval(), 150
    return make_model(family, 16, seed=1), 60 if family in ("marian", "bart") else 150


class Joined:
    """Counts concatenations of keys or values: of tensors with four axes, along their positions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, cat = 0, torch.cat

        def counted(tensors, dim: int = 0, **more):
            self.count += tensors[0].dim() == 4 and dim in (-2, 2)
            return cat(tensors, dim, **more)

        monkeypatch.setattr(torch, "cat", counted)


def stores(runner: Runner) -> tuple[int, ...]:
    return tuple(layer.keys.data_ptr() for layer in runner.cache.self_layers if layer.is_initialized)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_concatenated_at_a_step_and_stores_seldom_grow(family, monkeypatch):
    (model, steps), joined = long_model(family), Joined(monkeypatch)
    runner = Runner(model, 2, VOCABULARY)
    runner.admit([0, 1], [[3, 4, 5], [6, 7]])
    texts_BT = torch.randint(2, VOCABULARY, (2, steps + 8))
    places = []
    for step in range(steps):
        if step % 10 == 9:  # a row is rolled back, and reads more than the other
            runner.rollback(torch.tensor([1]), runner.cursor_B[1:] - 3)
        runner.read(None, texts_BT, torch.tensor([step + 1, step + 3]))
        places.append(stores(runner))
    moves = 1 + sum(before != after for before, after in itertools.pairwise(places))
    assert joined.count == 0
    assert moves <= 1 + math.ceil(math.log2(max(1.0, (steps + 8) / cache.BLOCK)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_a_cache_that_concatenates_is_seen(family, monkeypatch):
    """The negative control of the count."""
    (model, _), joined, past = long_model(family), Joined(monkeypatch), DynamicCache()
    for step in range(10):
        model(input_ids=torch.tensor([[3 + step % 5]]), use_cache=True, **{cache_argument(type(model)): past})
    assert joined.count >= 2 * 9


@pytest.mark.parametrize("family", FAMILIES)
def test_other_tokens_are_read_after_a_rollback(family):
    model, source = make_model(family, 16, seed=1), [5, 6, 7]
    texts_BT = torch.tensor([[3, 4, 5, 6, 7, 8]])
    runner = Runner(model, 1, VOCABULARY)
    runner.admit([0], [source])
    first = runner.read(None, texts_BT, torch.tensor([6])).logits_RV
    runner.rollback(torch.tensor([0]), torch.tensor([9]))
    assert runner.cursor_B.tolist() == [6], "a cursor is never moved on"
    runner.rollback(torch.tensor([0]), torch.tensor([2]))
    other_BT = torch.tensor([[3, 4, 9, 10, 11, 12]])
    said = runner.read(None, other_BT, torch.tensor([5]), torch.tensor([3])).logits_RV
    torch.testing.assert_close(said.double(), scores(model, [source], other_BT)[:, 2:5], atol=1e-4, rtol=0)
    runner.rollback(torch.tensor([0]), torch.tensor([2]))
    again = runner.read(None, texts_BT, torch.tensor([6])).logits_RV
    torch.testing.assert_close(again, first, atol=1e-4, rtol=0)
    assert (said[:, -1] - first).abs().max() > 0.1
    if family in SEQ2SEQ:
        assert runner._encoded == [True], "and the source is not read again"
