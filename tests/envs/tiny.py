"""Tiny random pairs of each family, whose outputs vary from source to source and end now and then."""

import copy
from collections.abc import Callable
from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from wheels.data.tasks import Row
from wheels.decoding.methods.method import teacher_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode
from wheels.models.pair import Pair

WORDS = list("abcdefghijk")
PAD, EOS, UNK = 0, 1, 2
# Of different lengths, so that rows stand at different cursors.
SOURCES = ("a b c", "k j i h g f", "d", "e a e a e a e a", "c c", "h b k")
TARGETS = ("a b", "c", "d e f", "g", "h i", "j k a")
ROWS = [Row(source, target) for source, target in zip(SOURCES, TARGETS, strict=True)]
LIMIT = 10


def tokenizer_of(ends_source: bool) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends_source:
        raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def t5(width: int) -> PreTrainedModel:
    config = T5Config(
        vocab_size=len(WORDS) + 3, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, initializer_factor=3.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def llama(width: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.6, max_position_embeddings=64, pad_token_id=PAD, bos_token_id=None, eos_token_id=EOS,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2(width: int, positions: int = 32) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=len(WORDS) + 3, n_embd=width, n_layer=1, n_head=2, n_positions=positions, initializer_range=0.6,
        pad_token_id=PAD, bos_token_id=EOS, eos_token_id=EOS,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


FAMILIES: dict[str, Callable[..., PreTrainedModel]] = {"t5": t5, "llama": llama, "gpt2": gpt2}


def make_pair(family: str, **sizes: int) -> Pair:
    """In float64: large random weights amplify rounding, and rows side by side are to agree with rows alone."""
    return copy.deepcopy(made(family, **sizes))  # half of what making it costs


@cache
def made(family: str, **sizes: int) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(2 if family == "t5" else 3)
        student, teacher = FAMILIES[family](16, **sizes), FAMILIES[family](24, **sizes)
    return Pair.of(student.double(), teacher.double(), tokenizer_of(ends_source=family == "t5"))


def teacher_rows(pair: Pair, limit: int) -> list[Row]:
    """The sources of `ROWS`, each with the teacher's own text as its reference."""
    sources = [row.source for row in ROWS]
    written = decode(pair, sources, teacher_only(), DecodeParams(max_new_tokens=limit))
    return [Row(source, trace.text or "a") for source, trace in zip(sources, written, strict=True)]
