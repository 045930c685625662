"""The fast forward against the library's, in every form of pass; what it leaves to the library; weights that change."""

import gc
import hashlib
import itertools
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.decoding.tiny import VOCABULARY, at_positions
from tests.marks import slow
from wheels.decoding.models import fast, linear
from wheels.decoding.models import runner as running
from wheels.decoding.models.attention import causal_mask
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.fast_positions import FIRST_TABLE
from wheels.decoding.models.registry import fast_decoder_for
from wheels.decoding.models.runner import Runner

TOLERANCE = 1e-5
"""Of the largest logit or state, in float32: what sums in another order are off by."""
ROWS, LENGTH, ROUNDS = 4, 40, 40

CAUSAL = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "initializer_range": 0.2, "max_position_embeddings": 64,
}  # fmt: skip
SCALED = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
SEQ2SEQ = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3,
    "initializer_factor": 0.5, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
    "pad_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip
GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2,
}  # fmt: skip
BART = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "init_std": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}  # fmt: skip
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**CAUSAL)),
    "llama-grouped": lambda: LlamaForCausalLM(LlamaConfig(**CAUSAL, num_key_value_heads=2, rope_parameters=SCALED)),
    "llama-tied-gelu": lambda: LlamaForCausalLM(
        LlamaConfig(**CAUSAL, num_key_value_heads=1, hidden_act="gelu", tie_word_embeddings=True)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**CAUSAL, num_key_value_heads=2, head_dim=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**CAUSAL, num_key_value_heads=2, sliding_window=64)),
    "llama-biased": lambda: LlamaForCausalLM(LlamaConfig(**CAUSAL, attention_bias=True, mlp_bias=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**CAUSAL, num_key_value_heads=2)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BART, scale_embedding=True)),
    "bart-relu": lambda: BartForConditionalGeneration(
        BartConfig(**BART, activation_function="relu", tie_word_embeddings=False)
    ),
    "marian": lambda: MarianMTModel(MarianConfig(**BART, scale_embedding=True, activation_function="swish")),
    "t5-gated-tied": lambda: T5ForConditionalGeneration(
        T5Config(**SEQ2SEQ, feed_forward_proj="gated-gelu", scale_decoder_outputs=True)
    ),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**SEQ2SEQ)),
    "t5-plain": lambda: T5ForConditionalGeneration(
        # Distances from 10 on are one bucket, and 9 is far from it: the end of the table is seen.
        T5Config(
            **SEQ2SEQ | {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 10, "num_heads": 6},
            feed_forward_proj="relu",
            scale_decoder_outputs=False,
        )
    ),
}


SEQ2SEQ_MODELS = [name for name in MODELS if name.startswith(("t5", "mt5", "bart", "marian"))]
FEW = ("llama", "llama-grouped", "t5-plain")
EACH = [*FEW, *slow(*(name for name in MODELS if name not in FEW))]
SEQ2SEQ_EACH = ["t5-plain", *slow(*(name for name in SEQ2SEQ_MODELS if name not in FEW))]
"""Every model for the slow tests. The fast ones have them all where passes are held against the library's."""


def build(name: str, seed: int = 0) -> Any:
    """Return a model whose norms are not all ones, so that one that is left out is seen."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[name]()
        for each, parameter in model.named_parameters():
            if "norm" in each or ".ln_" in each:
                parameter.data.uniform_(0.5, 1.5)
            elif each.endswith("bias"):
                parameter.data.normal_()
            if "relative_attention_bias" in each:
                parameter.data *= 5
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return model.eval()


def texts() -> tuple[torch.Tensor, list[list[int]]]:
    sources = [torch.randint(2, VOCABULARY, (length,)).tolist() for length in (3, 9, 5, 12)]
    return torch.randint(2, VOCABULARY, (ROWS, LENGTH)), sources


def walk(runner: Runner, tamper: Callable[[Runner], object] = lambda runner: None) -> list[torch.Tensor]:
    """Let a runner read and roll back by chance, in every form of pass; return logits and states of each."""
    texts_BT, sources = texts()
    runner.admit(range(ROWS), sources)
    runner.journal = []
    tamper(runner)
    found = []
    for turn in range(ROUNDS):
        rows_R = None if turn % 3 == 0 else torch.randperm(ROWS)[: int(torch.randint(1, ROWS + 1, ()))]
        rows = torch.arange(ROWS) if rows_R is None else rows_R
        before_B = runner.cursor_B.clone()
        # Rewinds: to one place for all, which makes the rows alike, or each to its own.
        to_B = (before_B * torch.rand(ROWS)).long() if turn % 2 else before_B.min().repeat(ROWS)
        to_B = to_B.clamp(max=LENGTH - 8) if turn % 5 == 4 else before_B.clamp(max=LENGTH - 8)
        counts = torch.ones(ROWS, dtype=torch.long) if turn % 4 < 2 else torch.randint(1, 7, (ROWS,))
        counts = counts[:1].repeat(ROWS) if turn % 4 == 2 else counts
        logits_to_keep_R = (torch.rand(len(rows)) * counts[rows]).long() + 1 if turn % 2 else None
        runner.rollback(torch.arange(ROWS), to_B)
        output = runner.read(rows_R, texts_BT, to_B + counts, logits_to_keep_R)
        found += [output.logits_RV.clone(), output.hidden_RD.clone()]
    assert all(each.seconds > 0 for each in runner.journal), "and each pass is timed"
    passes = {(each.rows, each.width, each.tokens == each.rows * each.width) for each in runner.journal}
    assert {(ROWS, 1, True), (1, 1, True), (2, 1, True)} < passes, "one token in all rows, and in some"
    assert any(width > 1 and whole for _, width, whole in passes) and any(not whole for *_, whole in passes)
    return found


WALKS: dict[bytes, list[torch.Tensor]] = {}


def librarys_walk(model: PreTrainedModel) -> list[torch.Tensor]:
    """The same by the library, once for the same weights and draws: most tests look at the same few models."""
    told = [value.contiguous().view(torch.uint8).numpy().tobytes() for value in model.state_dict().values()]
    seen = [repr(model.config).encode(), torch.get_rng_state().numpy().tobytes(), *told]
    key = hashlib.sha256(b"".join(seen)).digest()
    if key not in WALKS:
        runner = Runner(model, ROWS, VOCABULARY - 1, overhead=1, chunk=8, fast=False)
        assert runner.backend is runner.library
        WALKS[key] = walk(runner)
    return WALKS[key]


def worst_error(
    model: PreTrainedModel, tamper: Callable[[Runner], object] = lambda runner: None, *, weights: str = "float32"
) -> float:
    """Let the fast path and the library read alike; return the worst of a pass, in parts of its largest."""
    state = torch.get_rng_state()
    runner = Runner(model, ROWS, VOCABULARY - 1, overhead=1, chunk=8, weights=weights)
    assert runner.backend is not runner.library
    own = walk(runner, tamper)
    torch.set_rng_state(state)
    theirs = librarys_walk(model)
    torch.set_rng_state(state)  # whether it was walked or kept
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(own, theirs, strict=True))


@pytest.fixture(params=["packed", *slow("plain")])
def laid_out(request, monkeypatch):
    """Whether weights are packed by oneDNN, which pays only for larger ones than these."""
    if request.param == "packed" and not linear.can_prepack(torch.empty(256, 256)):
        pytest.skip("there is no oneDNN here")
    monkeypatch.setattr(linear, "SMALLEST", {torch.float32: 1 if request.param == "packed" else 10**9})
    monkeypatch.setattr(linear, "torch_is_faster", lambda *args: False)
    return {"plain": linear.TorchLinear, "packed": linear.PrepackedLinear}[request.param]


@pytest.mark.parametrize("name", MODELS)
def test_the_fast_path_equals_the_librarys(name, laid_out):
    model = build(name)
    made: Any = fast_decoder_for(model)
    assert (made.encoder is not None) == (name in SEQ2SEQ_MODELS)
    assert type(made.head) is type(made.blocks[0].self_attention.qkv) is laid_out
    assert worst_error(model) < TOLERANCE


class Moved(FastDecoder):
    """A mistake: positions beyond 3 are one too far."""

    def __call__(self, token_N, cache, inputs):
        return super().__call__(token_N, cache, at_positions(inputs, inputs.positions_RK + (inputs.positions_RK > 3)))


def moved(runner: Runner) -> None:
    runner.backend = Moved(**vars(runner.backend))


def unmasked(runner: Runner) -> None:
    """A mistake: all that was ever written is seen."""
    made: Any = runner.backend
    if made.bias is causal_mask:
        runner.backend = replace(made, bias=lambda inputs, dtype: None)
    else:
        made.bias.ramp_HT = made.bias.ramp_HT.nan_to_num(neginf=0.0)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("tamper", [moved, unmasked])
def test_a_wrong_position_or_mask_is_seen(name, tamper):
    """The negative control."""
    assert worst_error(build(name), tamper) > 100 * TOLERANCE


@pytest.mark.parametrize("name", SEQ2SEQ_EACH)
def test_sources_of_other_lengths_are_masked(name, monkeypatch):
    """The negative control of the sources' mask."""
    monkeypatch.setattr(fast, "source_mask", lambda inputs, dtype: None)
    assert worst_error(build(name)) > 100 * TOLERANCE


@pytest.mark.parametrize("name", EACH)
def test_both_read_the_same_store_in_turn(name):
    model, (texts_BT, sources) = build(name), texts()
    mixed, plain = Runner(model, ROWS, VOCABULARY), Runner(model, ROWS, VOCABULARY, fast=False)
    own = mixed.backend
    for runner in (mixed, plain):
        runner.admit(range(ROWS), sources)
    for turn in range(12):
        mixed.backend = own if turn % 2 else mixed.library
        length_B = torch.tensor([1, 3, 2, 4]) + 2 * turn
        output = [runner.read(None, texts_BT, length_B).logits_RV for runner in (mixed, plain)]
        assert (output[0] - output[1]).abs().max() < TOLERANCE * output[1].abs().max()


def test_positions_beyond_the_first_table_are_read():
    model, length = build("llama"), FIRST_TABLE + 20
    for each in (model, build("t5-plain")):
        output = []
        for way in (True, False):
            runner = Runner(each, 1, VOCABULARY, fast=way)
            runner.admit([0], [[3, 4]])
            text_1T = (torch.arange(length) % 9 + 3)[None]
            runner.read(None, text_1T, torch.tensor([length - 1]))
            output.append(runner.read(None, text_1T, torch.tensor([length])).logits_RV)
        assert (output[0] - output[1]).abs().max() < TOLERANCE * output[1].abs().max()


@pytest.mark.parametrize("name", ["llama", "t5-plain", "marian"])
def test_a_runner_reads_the_weights_that_the_model_has_when_it_is_made(name):
    """And not those of before: of a model that is trained meanwhile, its logits are stale until `refresh`."""
    model, (texts_BT, sources) = build(name), texts()

    def logits(runner: Runner) -> torch.Tensor:
        runner.admit(range(ROWS), sources)
        return runner.read(None, texts_BT, torch.tensor([3, 4, 5, 6])).logits_RV

    old = Runner(model, ROWS, VOCABULARY)
    logits(old)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = logits(Runner(model, ROWS, VOCABULARY, fast=False))
    assert (logits(Runner(model, ROWS, VOCABULARY)) - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert (logits(old) - expected).abs().max() > 100 * TOLERANCE * expected.abs().max()
    old.refresh(quick=True)
    assert (logits(old) - expected).abs().max() < TOLERANCE * expected.abs().max()
    backend = old.backend
    old.refresh(quick=True)
    assert old.backend is backend is not old.library
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    expected = logits(Runner(model, ROWS, VOCABULARY, fast=False))
    old.refresh(quick=True)
    assert (logits(old) - expected).abs().max() > 100 * TOLERANCE * expected.abs().max()
    old.refresh()
    assert (logits(old) - expected).abs().max() < TOLERANCE * expected.abs().max()


def in_place(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight[1, 1] += 1


def through_data(weight: torch.Tensor) -> None:
    weight.data.mul_(1.01)


def elsewhere(weight: torch.Tensor) -> None:
    weight.data = weight.data.clone()


@pytest.mark.parametrize("change", [in_place, through_data, elsewhere])
def test_a_fast_pass_is_made_again_only_when_the_weights_changed(change):
    model = build("llama")
    made = fast_decoder_for(model)
    assert fast_decoder_for(model) is made
    change(model.model.layers[1].mlp.up_proj.weight)
    assert fast_decoder_for(model) is not made
    assert fast_decoder_for(build("llama")) is not made, "each model has its own"


def test_a_bias_of_the_scores_that_changes_is_seen():
    """It is no parameter."""
    model = build("marian")
    made = fast_decoder_for(model)
    model.final_logits_bias[0, 3] += 1
    assert fast_decoder_for(model) is not made


def test_a_model_made_in_inference_mode_is_read_too():
    with torch.inference_mode():
        model = build("llama")
    assert fast_decoder_for(model) is fast_decoder_for(model) is not None


def test_a_fast_pass_is_forgotten_with_its_model():
    model = build("llama")
    made = weakref.ref(fast_decoder_for(model))
    assert made() is not None
    del model
    gc.collect()
    assert made() is None


@pytest.mark.parametrize(("is_fast", "kind"), [(True, "lean"), (False, "decode")])
def test_a_pass_is_noted_with_its_kind_and_seconds(monkeypatch, is_fast, kind):
    ticks = itertools.count()
    monkeypatch.setattr(running, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    chosen = Runner(build("llama"), 1, VOCABULARY, fast=is_fast)
    chosen.admit([0], [[2, 3]])
    chosen.journal = []
    chosen.read(None, torch.tensor([[2, 3, 4]]), torch.tensor([3]))
    assert [(each.kind, each.seconds) for each in chosen.journal] == [(kind, 1.0)]
