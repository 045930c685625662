"""Ragged key-value caches against the obvious path: every state read again from its beginning, a row at a time."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from tests.decoding.tiny import FAMILIES, SEQ2SEQ, VOCABULARY, at_positions, make_model
from wheels.decoding.models.output import Output, joined
from wheels.decoding.models.runner import Runner
from wheels.errors import WheelsError

TOLERANCE = 1e-4
"""The models compute in float64; logits of order 100 are returned in float32, whose rounding is 6e-8 of that."""
ROUNDS = 60
ROWS, LENGTH = 5, 30


@pytest.fixture(params=FAMILIES)
def model(request) -> PreTrainedModel:
    return make_model(request.param, 16, seed=1)


def start(model: PreTrainedModel) -> tuple[Runner, torch.Tensor, list[list[int]]]:
    """Return a runner, random texts, and sources of different lengths."""
    texts_BT = torch.randint(2, VOCABULARY, (ROWS, LENGTH))
    sources = [torch.randint(2, VOCABULARY, (length,)).tolist() for length in (3, 9, 5, 12, 7)]
    runner = Runner(model, ROWS, VOCABULARY)
    runner.admit(range(ROWS), sources)
    return runner, texts_BT, sources


@torch.no_grad()
def from_scratch(model: PreTrainedModel, source: list[int], text: torch.Tensor) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        return model(input_ids=torch.tensor([source]), decoder_input_ids=text[None]).logits[0, -1]
    return model(input_ids=text[None]).logits[0, -1]


def worst_error(model: PreTrainedModel, tamper: Callable[[Runner], None] = lambda runner: None) -> float:
    """Read and roll back at random, some rows or all; return the largest error of any logit."""
    runner, texts_BT, sources = start(model)
    tamper(runner)
    worst = 0.0
    for turn in range(ROUNDS):
        rows_R = None if turn % 7 == 0 else torch.randperm(ROWS)[: int(torch.randint(1, ROWS + 1, ()))]
        rows = list(range(ROWS)) if rows_R is None else rows_R.tolist()
        if turn % 3 == 2:
            chosen_R = torch.tensor(rows)
            runner.rollback(chosen_R, (torch.rand(len(rows)) * runner.cursor_B[chosen_R]).long())
            continue
        runner.rollback(torch.arange(ROWS), torch.full((ROWS,), LENGTH - 4))  # room for what follows
        length_B = runner.cursor_B.clone()
        length_B[rows] += torch.randint(1, 5, (len(rows),))
        output = runner.read(rows_R, texts_BT, length_B)
        assert runner.cursor_B[rows].equal(length_B[rows])
        for place, row in enumerate(rows):
            expected_V = from_scratch(model, sources[row], texts_BT[row, : length_B[row]])
            worst = max(worst, float((output.logits_RV[place] - expected_V).abs().max()))
    return worst


@pytest.mark.slow
def test_ragged_reads_and_rollbacks_equal_reading_from_scratch(model):
    assert worst_error(model) < TOLERANCE


@pytest.mark.slow
def test_rows_that_are_told_common_positions_are_wrong(model):
    """The negative control: with the positions 0..K for every row, the same rounds fail by far."""

    def tamper(runner: Runner) -> None:
        runner.backend = runner.library
        right = runner.library.positions
        runner.library.positions = lambda inputs: right(
            at_positions(inputs, torch.arange(inputs.positions_RK.shape[1]).expand_as(inputs.positions_RK))
        )

    assert worst_error(model, tamper) > 1000 * TOLERANCE


@pytest.mark.slow
def test_rows_that_see_what_lies_beyond_their_cursor_are_wrong(model):
    """The negative control of the mask: what was rolled back, or never written, must not be seen."""

    def tamper(runner: Runner) -> None:
        runner.backend = runner.library
        right = runner.library._mask
        runner.library._mask = lambda allowed_RKL, packing: right(torch.ones_like(allowed_RKL), packing)

    assert worst_error(model, tamper) > 1000 * TOLERANCE


def test_outputs_of_several_passes_are_put_in_order_by_hand():
    """Rows 2 and 0 keep one position, row 1 three: the shorter ones repeat their last."""
    short, long = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[[3.0], [4.0], [5.0]]])
    parts = [(rows, Output(each, -each, 10 * each)) for rows, each in (([2, 0], short), ([1], long))]
    expected = torch.tensor([[2.0] * 3, [3.0, 4.0, 5.0], [1.0] * 3])
    logits, hidden, gain = (each[..., 0] for each in joined(parts).tensors)
    assert logits.equal(expected) and hidden.equal(-expected) and gain.equal(10 * expected)
    assert len(joined([([0], Output(long, long))]).tensors) == 2, "without a head"


def test_the_hidden_state_is_what_the_head_read(model):
    runner, texts_BT, _ = start(model)
    output = runner.read(None, texts_BT, torch.tensor([1, 4, 2, 7, 3]))
    scores_RV = model.get_output_embeddings()(output.hidden_RD.double())
    torch.testing.assert_close(scores_RV.float(), output.logits_RV, atol=TOLERANCE, rtol=0)


def test_a_new_text_moves_into_a_live_slot(model):
    runner, texts_BT, sources = start(model)
    runner.read(None, texts_BT, torch.tensor([6, 2, 9, 4, 1]))
    sources[1], sources[3] = [5, 6, 7, 8] * 4, [9, 3]
    texts_BT[1], texts_BT[3] = texts_BT[3].clone(), texts_BT[1].clone()
    runner.admit([1, 3], [sources[1], sources[3]])
    assert runner.cursor_B.tolist() == [6, 0, 9, 0, 1]
    for length_B in (torch.tensor([7, 1, 11, 3, 2]), torch.tensor([8, 5, 12, 4, 9])):
        output = runner.read(None, texts_BT, length_B)
        for row in range(ROWS):
            expected_V = from_scratch(model, sources[row], texts_BT[row, : length_B[row]])
            torch.testing.assert_close(output.logits_RV[row], expected_V.float(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_the_encoder_runs_once_for_a_source_and_never_for_one_unread(family):
    model = make_model(family, 16, seed=1)
    runner, texts_BT, _ = start(model)
    encoded = []
    model.get_encoder().register_forward_pre_hook(
        lambda module, args, kwargs: encoded.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    runner.read(torch.tensor([0, 2]), texts_BT, torch.tensor([2, 0, 1, 0, 0]))
    runner.read(torch.tensor([2, 4]), texts_BT, torch.tensor([2, 0, 3, 0, 2]))
    runner.read(torch.tensor([0, 2, 4]), texts_BT, torch.tensor([3, 0, 4, 0, 3]))
    assert encoded == [2, 1]


def test_a_row_at_the_end_of_the_context_is_read_beside_one_that_reads_much():
    """The padding of the first would be at positions that the model does not have: GPT-2 here has 32."""
    model = make_model("gpt2", 16, seed=1)
    texts_BT = torch.randint(2, VOCABULARY, (2, 32))
    runner = Runner(model, 2, VOCABULARY)
    runner.admit([0, 1], [[], []])
    runner.read(None, texts_BT, torch.tensor([31, 1]))
    output = runner.read(None, texts_BT, torch.tensor([32, 9]))
    for row, length in enumerate((32, 9)):
        expected_V = from_scratch(model, [], texts_BT[row, :length])
        torch.testing.assert_close(output.logits_RV[row], expected_V.float(), atol=TOLERANCE, rtol=0)


def test_a_padded_vocabulary_is_cut_to_the_common_range():
    runner = Runner(make_model("llama", 16, seed=1), 1, VOCABULARY - 4)
    assert runner.read(None, torch.tensor([[3, 4]]), torch.tensor([2])).logits_RV.shape == (1, VOCABULARY - 4)


SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
STRANGE = [
    FalconForCausalLM(FalconConfig(**SMALL, alibi=True)),
    GPTNeoForCausalLM(
        GPTNeoConfig(vocab_size=VOCABULARY, hidden_size=16, num_layers=1, num_heads=2, attention_types=[[["local"], 1]])
    ),
]


@pytest.mark.parametrize("model", STRANGE, ids=lambda model: model.config.model_type)
def test_a_family_that_cannot_be_told_its_positions_is_refused_by_name(model):
    with pytest.raises(
        WheelsError,
        match=f"models of type '{model.config.model_type}' .* cannot be decoded: (alibi|attention_types)=.*T5",
    ):
        Runner(model, 1, VOCABULARY)


def test_a_mistral_without_a_window_is_read():
    config = MistralConfig(**SMALL, intermediate_size=16, num_key_value_heads=2, sliding_window=None)
    assert worst_error(MistralForCausalLM(config).double().eval()) < TOLERANCE
