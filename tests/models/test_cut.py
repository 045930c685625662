"""A student of some of a model's layers: the right ones, in order, and nothing else changed."""

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from wheels.errors import WheelsError
from wheels.models.cut import keep_layers, spread

CAUSAL = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**CAUSAL, num_key_value_heads=1, num_hidden_layers=5)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **CAUSAL, num_key_value_heads=1, num_hidden_layers=5, use_sliding_window=True, sliding_window=4,
            max_window_layers=2,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_head=2, n_layer=5)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=40, d_model=16, d_kv=8, num_heads=2, d_ff=24, num_layers=2, num_decoder_layers=5)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(
            vocab_size=40, d_model=16, encoder_layers=2, decoder_layers=5, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
        )
    ),
}  # fmt: skip


def blocks(model):
    decoder = model.get_decoder()
    return next(module for module in decoder.children() if isinstance(module, torch.nn.ModuleList))


def read(model) -> torch.Tensor:
    ids = torch.arange(3, 11)[None]
    named = {"input_ids": ids, "use_cache": True}
    if model.config.is_encoder_decoder:
        named["decoder_input_ids"] = ids
    return model(**named).logits


def test_layers_are_spread_from_the_first_to_the_last():
    assert spread(1, 30) == [0]
    assert spread(2, 30) == [0, 29]
    assert spread(3, 5) == [0, 2, 4]
    assert spread(8, 30) == [0, 4, 8, 12, 17, 21, 25, 29]
    assert spread(5, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("family", MODELS)
@torch.no_grad()
def test_a_cut_model_is_the_model_with_the_other_layers_taken_out_by_hand(family, tmp_path):
    torch.manual_seed(0)
    model = MODELS[family]().eval()
    small = keep_layers(model, 3)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    # By hand: a layer that is left out hands on what it was given.
    for index in (1, 3):
        blocks(model)[index].forward = lambda hidden, *rest, index=index, **named: handed_on(family, hidden, rest)
    torch.testing.assert_close(read(small), read(model))
    small.save_pretrained(tmp_path)
    torch.testing.assert_close(read(type(small).from_pretrained(tmp_path).eval()), read(small))


def handed_on(family: str, hidden, rest):
    """Return what a block of that family returns, without having changed the hidden state."""
    if family == "t5":  # (hidden, position bias, encoder-decoder position bias): the first block made the biases
        return hidden, rest[1], rest[4]
    return hidden


def test_a_text_goes_on_as_it_was_read():
    torch.manual_seed(1)
    small = keep_layers(MODELS["llama"](), 2)
    ids = torch.arange(3, 9)[None]
    written = small.generate(ids, max_new_tokens=4, do_sample=False, use_cache=True, eos_token_id=None)
    assert torch.equal(
        written, small.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False, eos_token_id=None)
    )


@pytest.mark.parametrize("count", [0, 6])
def test_more_layers_than_there_are_is_refused(count):
    with pytest.raises(WheelsError, match=f"keep_layers must be from 1 to 5, the layers of this model, got {count}"):
        keep_layers(MODELS["llama"](), count)
