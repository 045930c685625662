"""Untested families are checked on first use, and refused where ragged decoding is not exact."""

import math

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from tests.decoding.test_engine import TEXTS, own_generate
from tests.decoding.tiny import FAMILIES, VOCABULARY, make_model, make_pair, restless, write
from tests.envs.tiny import EOS, PAD, SOURCES, tokenizer_of
from wheels.decoding.methods.method import speculative
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models import self_check as selfcheck
from wheels.decoding.models.runner import Runner
from wheels.decoding.models.self_check import TESTED, TOLERANCE, checked_runner, ragged_error
from wheels.errors import WheelsError
from wheels.models.pair import Pair

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
def test_every_tested_family_would_pass(family, dtype):
    model = make_model(family, 16, seed=1).to(dtype)
    assert model.config.model_type in TESTED
    assert ragged_error(model, VOCABULARY) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    "model",
    [
        PhiForCausalLM(PhiConfig(**SMALL, intermediate_size=16)),
        OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16, max_position_embeddings=64)),
    ],
    ids=lambda model: model.config.model_type,
)
def test_a_family_that_nobody_tested_is_checked_once(model, monkeypatch):
    model = model.eval()
    assert model.config.model_type not in TESTED
    calls = []
    monkeypatch.setattr(selfcheck, "ragged_error", lambda *args: calls.append(1) or ragged_error(*args))
    for _ in range(2):
        checked_runner(model, 2, VOCABULARY)
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_family_that_is_not_read_exactly_is_refused_by_name(dtype):
    with pytest.raises(
        WheelsError, match=r"models of type 'forgetful' \(.*\) cannot be decoded: .* by [0-9.]+ standard"
    ):
        checked_runner(forgetful().to(dtype), 2, VOCABULARY)


def test_small_scores_hide_nothing():
    """Errors count in standard deviations of the logits, however small these are."""
    model = forgetful()
    error = ragged_error(model, VOCABULARY)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-3)
    assert ragged_error(model, VOCABULARY) == pytest.approx(error, rel=1e-3) and error > TOLERANCE[torch.float32]


def test_what_a_rollback_spoils_is_seen(monkeypatch):
    model, right = make_model("llama", 16, seed=1), Runner.rollback

    def spoils(runner, rows, lengths):
        right(runner, rows, lengths)
        for layer in runner.cache.self_layers:
            layer.values.zero_()

    monkeypatch.setattr(Runner, "rollback", spoils)
    assert ragged_error(model, VOCABULARY) > TOLERANCE[torch.float32]


def test_the_engine_refuses_it_too():
    pair = Pair.of(forgetful(), forgetful(), tokenizer_of(ends_source=False))
    with pytest.raises(WheelsError, match="forgetful"):
        write(pair, SOURCES, RULES["random"].at(0.5), budget=0.5)


def test_a_tested_family_is_not_measured_again(monkeypatch):
    monkeypatch.setattr(selfcheck, "ragged_error", lambda *args: pytest.fail("measured"))
    write(make_pair("llama"), SOURCES, RULES["random"].at(0.5), budget=0.5, max_new_tokens=3)


class Silent(PhiForCausalLM):
    """A model whose logits are nan wherever it is given a mask for each row."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):  # type: ignore[override]
        output = super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)
        if attention_mask is not None and attention_mask.dim() == 4:
            output.logits = output.logits * float("nan")
        return output


def test_a_family_whose_scores_are_no_numbers_is_refused():
    model = Silent(PhiConfig(**SMALL, intermediate_size=16)).eval()
    assert math.isnan(ragged_error(model, VOCABULARY))
    with pytest.raises(
        WheelsError, match=r"models of type 'phi' \(.*\) cannot be decoded: .* by nan standard deviations"
    ):
        checked_runner(model, 2, VOCABULARY)


def test_code_of_somebody_elses_is_measured_under_a_tested_name_too(monkeypatch):
    monkeypatch.setattr(selfcheck, "ragged_error", lambda *args: 7.0)
    with pytest.raises(
        WheelsError, match=r"models of type 'llama' \(.*\) cannot be decoded: .* by 7 standard deviations"
    ):
        checked_runner(Forgetful(LlamaConfig(**SMALL, intermediate_size=16)).eval(), 2, VOCABULARY)


def small(kind: str, **settings: object) -> PreTrainedModel:
    """A model of any family, as small as its configuration allows."""
    config = CONFIG_MAPPING[kind](**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        return auto.from_config(config).eval()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("xglm", {"vocab_size": VOCABULARY, "d_model": 16, "ffn_dim": 16, "num_layers": 1, "attention_heads": 2,
                  "max_position_embeddings": 64}, "it takes no mask for each row"),
        ("openai-gpt", {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2},
         "it has no cache"),
        ("mamba", {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
         "layers of linear_attention keep one state of all they read"),
        ("gpt_neo", {"vocab_size": VOCABULARY, "hidden_size": 16, "num_layers": 2, "num_heads": 2,
                     "attention_types": [[["global", "local"], 1]]}, "attention_types="),
        ("falcon", {**SMALL, "alibi": True}, "alibi=True"),
        ("longt5", {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2,
                    "decoder_start_token_id": 0, "encoder_attention_type": "transient-global"},
         "encoder_attention_type='transient-global'"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)  # fmt: skip
def test_what_is_not_read_exactly_is_refused_by_name_and_in_one_line(kind, settings, message):
    with pytest.raises(WheelsError, match=message) as raised, torch.no_grad():
        checked_runner(small(kind, **settings), 2, VOCABULARY)
    assert kind in str(raised.value)
    assert "\n" not in str(raised.value)


def test_attention_without_a_mask_for_each_row_is_refused():
    model = make_model("llama", 16, seed=1)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(WheelsError, match="attention 'flex_attention' reads no mask of its own for each row"):
        checked_runner(model, 2, VOCABULARY)


def umt5(width: int, seed: int) -> PreTrainedModel:
    """A bias of its own in each layer, where T5 has one for all."""
    config = UMT5Config(
        vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=16, num_layers=2, num_heads=2, initializer_factor=3.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, pad_token_id=PAD, eos_token_id=EOS,
        decoder_start_token_id=PAD, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return restless(UMT5ForConditionalGeneration(config)).double().eval()


@pytest.mark.slow
def test_a_bias_of_each_layer_is_followed_in_each():
    pair = Pair.of(umt5(16, 1), umt5(24, 2), tokenizer_of(ends_source=True))
    for budget, model in ((0.0, "student"), (1.0, "teacher")):
        traces = write(pair, TEXTS, RULES["random"], budget=budget, max_new_tokens=12)
        expected = own_generate(pair, model, TEXTS)
        assert [trace.token_ids for trace in traces] == expected
        assert len(set(expected)) >= 6, "the models say one thing whatever they read: nothing is tested"
    # Rows that read different amounts in one pass.
    traces = write(pair, TEXTS, speculative(4), budget=None, max_new_tokens=12)
    assert [trace.token_ids for trace in traces] == own_generate(pair, "teacher", TEXTS)


ANGLES = {
    "longrope": {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 4,
                 "long_factor": [1.0, 4.0, 8.0, 16.0], "original_max_position_embeddings": 16},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16},
}  # fmt: skip


def turning(kind: str, width: int, seed: int) -> PreTrainedModel:
    config = LlamaConfig(
        **{**SMALL, "hidden_size": width}, intermediate_size=16, head_dim=8, initializer_range=0.6, pad_token_id=PAD,
        bos_token_id=None, eos_token_id=EOS, max_position_embeddings=16 if kind == "dynamic" else 64,
        rope_parameters={"rope_theta": 100.0, **ANGLES[kind]},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return restless(LlamaForCausalLM(config)).double().eval()


@pytest.mark.parametrize("kind", ANGLES)
def test_texts_stay_within_the_length_up_to_which_angles_are_a_rows_own(kind):
    pair = Pair.of(turning(kind, 16, 1), turning(kind, 24, 2), tokenizer_of(ends_source=False))
    moves = kind in ("longrope", "dynamic")
    assert pair.source_limit == (16 if moves else 64)
    long = " ".join("abcdefghijk"[place % 11] for place in range(20))
    if moves:
        with pytest.raises(WheelsError, match="input 2 has 20 tokens, and the models read at most 16"):
            write(pair, ["a b c", long], RULES["random"], budget=0.0, max_new_tokens=8)
        long = " ".join(long.split()[:14])
    expected = [own_generate(pair, "student", [text], limit)[0] for text, limit in (("a b c", 8), (long, 2))]
    traces = write(pair, ["a b c", long], RULES["random"], budget=0.0, max_new_tokens=8)
    assert [trace.token_ids[: len(own)] for trace, own in zip(traces, expected, strict=True)] == expected
