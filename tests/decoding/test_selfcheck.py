"""Families that nobody has tried are tried on first use, and refused where a ragged read of them is not exact."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from tests.decoding.tiny import FAMILIES, VOCABULARY, make_model, make_pair
from tests.envs.tiny import SOURCES, tokenizer_of
from wheels.decoding import selfcheck
from wheels.decoding.engine import decode
from wheels.decoding.rules import SIMPLE
from wheels.decoding.selfcheck import TOLERANCE, TRIED, checked_runner, ragged_error
from wheels.errors import WheelsError
from wheels.pair import Pair

SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


class Forgetful(LlamaForCausalLM):
    """A model that takes `position_ids` and does not use them, as some remote code does."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):  # type: ignore[override]
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


class ForgetfulConfig(LlamaConfig):
    model_type = "forgetful"


def forgetful() -> PreTrainedModel:
    return Forgetful(ForgetfulConfig(**SMALL, intermediate_size=16, initializer_range=0.5)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tried_family_would_pass(family, dtype):
    model = make_model(family, 16, seed=1).to(dtype)
    assert model.config.model_type in TRIED
    assert ragged_error(model, VOCABULARY) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    "model",
    [
        PhiForCausalLM(PhiConfig(**SMALL, intermediate_size=16)),
        OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16, max_position_embeddings=64)),
    ],
    ids=lambda model: model.config.model_type,
)
def test_a_family_that_nobody_tried_is_tried_once(model, monkeypatch):
    model = model.eval()
    assert model.config.model_type not in TRIED
    calls = []
    monkeypatch.setattr(selfcheck, "ragged_error", lambda *args: calls.append(1) or ragged_error(*args))
    for _ in range(2):
        checked_runner(model, 2, VOCABULARY)
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_family_that_is_not_read_exactly_is_refused_by_name(dtype):
    with pytest.raises(WheelsError, match=r"models of type 'forgetful' cannot be decoded: .* by [0-9.]+ standard"):
        checked_runner(forgetful().to(dtype), 2, VOCABULARY)


def test_the_engine_refuses_it_too():
    pair = Pair.of(forgetful(), forgetful(), tokenizer_of(ends_source=False))
    with pytest.raises(WheelsError, match="forgetful"):
        decode(pair, SOURCES, SIMPLE["random"].at(0.5), budget=0.5)


def test_a_tried_family_is_not_measured_again(monkeypatch):
    monkeypatch.setattr(selfcheck, "ragged_error", lambda *args: pytest.fail("measured"))
    decode(make_pair("llama"), SOURCES, SIMPLE["random"].at(0.5), budget=0.5, max_new_tokens=3)
