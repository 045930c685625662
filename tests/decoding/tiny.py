"""Tiny random pairs of every family that the engine is held to, and a trained model's folder made from one."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.envs.tiny import EOS, PAD, UNK, WORDS, gpt2, llama, t5, tokenizer_of
from wheels.decoding.methods.method import Method, deferral
from wheels.decoding.methods.rule import AnyRule, Rule
from wheels.decoding.models.costs import Costs
from wheels.decoding.models.inputs import AttentionInputs
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode
from wheels.decoding.trace import Trace
from wheels.models.artefact import save_deferral
from wheels.models.pair import Pair
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig

VOCABULARY = len(WORDS) + 3
MADE_UP = Costs({1: 0.1}, {(1, 1): 1.0, (1, 5): 1.0, (2, 5): 1.0, (8, 5): 1.0})
"""Costs as on a machine whose passes cost the same at any size: there drafts grow. What every test has (`conftest`)."""


def marian(width: int) -> PreTrainedModel:
    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=width, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, pad_token_id=PAD,
        eos_token_id=EOS, decoder_start_token_id=PAD, init_std=0.8, forced_eos_token_id=EOS,
    )  # fmt: skip
    model = MarianMTModel(config)
    # As every converted Marian model has it: it starts with the padding token, and must not write it.
    model.generation_config.bad_words_ids = [[PAD]]
    model.generation_config.forced_eos_token_id = EOS
    return model


def bart(width: int) -> PreTrainedModel:
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=width, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, pad_token_id=PAD,
        eos_token_id=EOS, bos_token_id=UNK, decoder_start_token_id=EOS, init_std=0.8, forced_bos_token_id=5,
        forced_eos_token_id=EOS,
    )  # fmt: skip
    model = BartForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id, model.generation_config.forced_eos_token_id = 5, EOS
    return model


def qwen3(width: int) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, initializer_range=0.6, max_position_embeddings=64, pad_token_id=PAD,
        bos_token_id=None, eos_token_id=EOS,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


FAMILIES: dict[str, Callable[[int], PreTrainedModel]] = {
    "t5": t5,
    "marian": marian,
    "bart": bart,
    "llama": llama,
    "gpt2": gpt2,
    "qwen3": qwen3,
}
SEQ2SEQ = ("t5", "marian", "bart")


def make_model(family: str, width: int, seed: int) -> PreTrainedModel:
    """In float64: large random weights amplify rounding, and rows side by side are to agree with rows alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return restless(FAMILIES[family](width)).double().eval()


def at_positions(inputs: AttentionInputs, positions_RK: torch.Tensor) -> AttentionInputs:
    """Return the same inputs at other positions: a mistake that must be seen."""
    packed_RK = positions_RK if inputs.packing is None else inputs.packing.pack(positions_RK)
    return replace(inputs, positions_RK=positions_RK, write=replace(inputs.write, positions_RK=packed_RK, start=None))


def restless(model: PreTrainedModel) -> PreTrainedModel:
    """Give it an output head that dislikes the token just read: else random weights write one token for ever.

    T5's bias by distance is made larger, so that a wrong position is seen.
    """
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name:
            parameter.data *= 10
    table = model.get_input_embeddings().weight.detach()
    model.get_output_embeddings().weight = torch.nn.Parameter(torch.randn_like(table) * table.std() - table)
    model.config.tie_word_embeddings = False
    return model


SEEDS = {"t5": 13, "marian": 1, "bart": 23, "llama": 20, "gpt2": 23, "qwen3": 24}
"""Of weights whose texts differ from source to source, and end now and then."""


def make_pair(family: str) -> Pair:
    return copy.deepcopy(made(family))  # half of what making it costs


@cache
def made(family: str) -> Pair:
    seed = SEEDS[family]
    student, teacher = make_model(family, 16, seed), make_model(family, 24, seed + 100)
    return Pair.of(student, teacher, tokenizer_of(ends_source=family in SEQ2SEQ))


def with_ends(pair: Pair, ends: list[int] | int) -> Pair:
    """Let other tokens end a text."""
    for model in (pair.student, pair.teacher):
        model.generation_config.eos_token_id = ends
    return pair


def save_artefact(folder: Path, family: str = "t5", *, rules: tuple[str, ...] = ("learned", "regret")) -> Path:
    """Write what `wheels train` leaves: student, teacher, and two heads for each rule that were never trained."""
    pair = make_pair(family)
    pair.save_student(folder)
    pair.save_teacher(folder / "teacher")
    config = HeadConfig.of(feature_width(pair.student.config.hidden_size), pair.vocab_size, width=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = {rule: [DeferralHead(config) for _ in range(2)] for rule in rules}
    save_deferral(folder, made, teacher="teacher", prompt="{source}", trained={"steps": 0})
    return folder


ENGINE = ("batch_size", "schedule", "journal", "on_error", "progress")


def method_of(how: Method | AnyRule, budget: Any = None, mode: str = "average", burst: int = 0) -> Method:
    """A method under a budget; a rule is deferral. A threshold set by hand is taken to be the budget's own."""
    given: dict[str, Any] = {"budget": budget, "mode": mode, "burst": burst}
    rule = how.rule if isinstance(how, Method) else how
    found = np.atleast_1d(np.asarray(budget)).tolist()
    between = {one for one in found if isinstance(one, float) and 0 < one < 1}
    by_hand = isinstance(rule, Rule) and rule.budget is None and abs(rule.threshold) != float("inf")
    if isinstance(rule, Rule) and by_hand and len(between) == 1:
        rule = rule.at(rule.threshold, *between)
    return replace(how, rule=rule, **given) if isinstance(how, Method) else deferral(rule, **given)


def write(pair: Pair, sources: Sequence[str], how: Method | AnyRule, **settings: Any) -> list[Trace]:
    """`decode` by keywords: of the method's budget, of the engine, and of `DecodeParams`."""
    method = method_of(how, **{name: settings.pop(name) for name in ("budget", "mode", "burst") if name in settings})
    engine = {name: settings.pop(name) for name in ENGINE if name in settings}
    return decode(pair, sources, method, DecodeParams(**settings), **engine)
