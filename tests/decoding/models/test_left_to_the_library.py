"""Models that the fast forward leaves to the library, for they are not the plain ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tests.decoding.models.test_families import CAUSAL, build
from wheels.decoding.models import registry
from wheels.decoding.models.registry import fast_decoder_for


def hooked(model: Any) -> None:
    model.get_decoder().register_forward_hook(lambda *args: None)


def adapted(model: Any) -> None:
    class Adapter(torch.nn.Linear):
        pass

    model.model.layers[1].mlp.up_proj = Adapter(32, 48, bias=False)


def replaced(model: Any) -> None:
    model.model.layers[0].forward = model.model.layers[0].forward


UNLIKE: dict[str, Callable[[Any], object]] = {
    "hooked": hooked,
    "adapted": adapted,
    "replaced": replaced,
    "training": lambda model: model.train(),
    "half": lambda model: model.half(),
    "double": lambda model: model.double(),
    "mixed": lambda model: model.lm_head.double(),
    "other attention": lambda model: setattr(model.config, "_attn_implementation", "flex_attention"),
    "angles that depend on the length": lambda model: setattr(model.model.rotary_emb, "rope_type", "dynamic"),
    "another class": lambda model: setattr(model, "__class__", type("Own", (LlamaForCausalLM,), {})),
}


@pytest.mark.parametrize("change", UNLIKE.values(), ids=UNLIKE)
def test_what_is_unlike_the_plain_model_is_left_to_the_library(change):
    model = build("llama")
    assert fast_decoder_for(model) is not None
    change(model)
    assert fast_decoder_for(model) is None


@pytest.mark.parametrize(("window", "is_fast"), [(63, False), (64, True), (None, True)])
def test_a_window_shorter_than_the_context_is_left_to_the_library(window, is_fast):
    model = MistralForCausalLM(MistralConfig(**CAUSAL, num_key_value_heads=2, sliding_window=window)).eval()
    assert (fast_decoder_for(model) is not None) is is_fast


def test_attention_in_another_order_is_left_to_the_library():
    model = build("gpt2")
    assert fast_decoder_for(model) is not None
    model.config.reorder_and_upcast_attn = True
    assert fast_decoder_for(model) is None


def test_large_models_and_other_families_are_left_to_the_library(monkeypatch):
    assert fast_decoder_for(GPTNeoXForCausalLM(GPTNeoXConfig(**CAUSAL)).eval()) is None
    model = build("t5-plain")
    assert fast_decoder_for(model) is not None
    monkeypatch.setattr(registry, "LARGEST", 1000)
    assert fast_decoder_for(model) is None
