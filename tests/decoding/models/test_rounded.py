"""Fast passes with weights in int8 or bfloat16: off by rounding alone, of every family."""

from typing import Any

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)
from transformers.activations import GELUActivation, NewGELUActivation, SiLUActivation

from tests.decoding.models.test_families import (
    CAUSAL,
    EACH,
    ROWS,
    SEQ2SEQ_MODELS,
    TOLERANCE,
    build,
    in_place,
    moved,
    texts,
    worst_error,
)
from tests.decoding.tiny import VOCABULARY
from wheels.decoding.models import linear, registry
from wheels.decoding.models.blocks import RMSNorm
from wheels.decoding.models.registry import fast_decoder_for
from wheels.decoding.models.runner import Runner
from wheels.decoding.models.weights import activation
from wheels.errors import WheelsError


def test_small_states_are_divided_by_what_the_root_adds_in_bfloat16_too():
    """States whose mean square is eps: the root is of twice that, and of 0 if eps were taken away."""
    states = torch.full((2, 4), 2.0**-10, dtype=torch.bfloat16)
    states[1] *= -3
    weight_D = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.bfloat16)
    expected = torch.tensor([[0.5**0.5], [-(0.9**0.5)]]) * weight_D.float()
    torch.testing.assert_close(RMSNorm(weight_D, 2.0**-20)(states).float(), expected, rtol=2.0**-7, atol=0.0)


@pytest.mark.parametrize("module", [NewGELUActivation(), GELUActivation(), SiLUActivation(), torch.nn.ReLU()])
def test_an_activation_is_the_librarys_and_in_bfloat16_to_the_last_bit(module):
    exact = torch.randn(4000) * 3
    rough = exact.bfloat16()
    torch.testing.assert_close(activation(module, torch.float32)(exact), module(exact), rtol=1e-6, atol=1e-6)
    assert activation(module, torch.bfloat16)(rough).equal(module(rough))


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_in_bfloat16_a_fast_pass_is_off_by_rounding_alone(name):
    assert worst_error(build(name).bfloat16()) < 4e-2


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
def test_with_rounded_weights_a_fast_pass_is_off_by_rounding_alone(name, weights):
    """In every form of pass. A position that is one too far is off by twice as much at least (see `Moved`)."""
    if weights == "bfloat16" and not linear.can_prepack(torch.empty(8, 8, dtype=torch.bfloat16)):
        pytest.skip("oneDNN does not multiply bfloat16 here")
    model = build(name)
    made: Any = fast_decoder_for(model, weights)
    kind = {"int8": linear.Int8Linear, "bfloat16": linear.BFloat16Linear}[weights]
    block = made.blocks[0]
    assert {type(each) for each in (block.self_attention.qkv, block.self_attention.out, block.feed_forward.out)} == {
        kind
    }
    expected = {"int8": linear.Int8Linear, "bfloat16": linear.TorchLinear}[weights]
    assert isinstance(made.head, expected), "products in bfloat16 would tie logits"
    if name in SEQ2SEQ_MODELS:
        assert type(made.encoder.blocks[0].feed_forward.into) is type(made.encoder.project.linear) is kind
    error, mistaken = worst_error(model, weights=weights), worst_error(build(name), moved)
    assert TOLERANCE < error < mistaken / 2


@pytest.mark.parametrize("name", EACH)
def test_in_int8_a_rows_logits_are_those_of_the_row_alone(name):
    """Up to the rounding of float32 in attention, which can move a state over the middle of two whole numbers."""
    model, (texts_BT, sources) = build(name), texts()
    length_B = torch.tensor([9, 4, 7, 12])
    together = Runner(model, ROWS, VOCABULARY, weights="int8")
    together.admit(range(ROWS), sources)
    logits_BV = together.read(None, texts_BT, length_B).logits_RV
    for row in range(ROWS):
        alone = Runner(model, 1, VOCABULARY, weights="int8")
        alone.admit([0], [sources[row]])
        for length in range(1, int(length_B[row]) + 1):
            output = alone.read(None, texts_BT[row : row + 1], torch.tensor([length]))
        assert (output.logits_RV[0] - logits_BV[row]).abs().max() < 0.01 * logits_BV[row].abs().max()


def test_rounded_weights_need_the_fast_path():
    model = build("llama").bfloat16()
    with pytest.raises(WheelsError, match=r"got LlamaForCausalLM, bfloat16, cpu; use weights"):
        Runner(model, 1, VOCABULARY, weights="int8")
    with pytest.raises(WheelsError, match="got GPTNeoXForCausalLM"):
        Runner(GPTNeoXForCausalLM(GPTNeoXConfig(**CAUSAL)).eval(), 1, VOCABULARY, weights="int8")


def test_a_larger_model_fits_in_int8(monkeypatch):
    model = build("llama")
    size = sum(weight.numel() for name, weight in model.model.named_parameters() if "embed" not in name)
    monkeypatch.setattr(registry, "LARGEST", size)
    assert fast_decoder_for(model) is None
    assert fast_decoder_for(model, "int8") is not None
    monkeypatch.setattr(registry, "LARGEST", size - 1)
    assert fast_decoder_for(model, "int8") is None


def test_each_kind_of_weights_is_made_once():
    model = build("llama")
    whole, rounded = fast_decoder_for(model), fast_decoder_for(model, "int8")
    assert whole is not rounded
    assert fast_decoder_for(model) is whole and fast_decoder_for(model, "int8") is rounded
    in_place(model.model.layers[1].mlp.up_proj.weight)
    assert fast_decoder_for(model, "int8") is not rounded
