"""A small random model of any family of transformers, from its configuration, and words for it to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from wheels.decoding.compatibility.listed import FAMILIES
from wheels.errors import WheelsError, did_you_mean
from wheels.models.loading import Tokenizer, first_line, quiet_loading

VOCABULARY, PAD, END, START, CONTEXT, WINDOW = 96, 0, 1, 2, 128, 6
NAMES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner"), 48),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("head_dim", "d_kv", "rotary_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), CONTEXT),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("initializer_range", "init_std"), 0.4),
    "num_key_value_heads": 2,
    "moe_intermediate_size": 32,
    "num_experts_per_tok": 2,
    "sliding_window": WINDOW,
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "bos_token_id": START,
    "decoder_start_token_id": START,
    "initializer_factor": 3.0,
    "scale_embedding": True,
}
"""The sizes of a small model, by the names that configurations have for them; each takes those that it knows."""


def small_config(family: str) -> PreTrainedConfig:
    """Return the configuration of a small model of a family.

    Args:
        family: a `model_type` of transformers, or an entry of `FAMILIES`.

    Raises:
        WheelsError: where transformers knows no such family, or a small one cannot be made.
    """
    name = family.partition("+")[0]
    if name not in CONFIG_MAPPING or ("+" in family and family not in FAMILIES):
        near = did_you_mean(family, [*FAMILIES, *CONFIG_MAPPING.keys()])
        raise WheelsError(f"check takes a family of transformers, a model's folder, or all; got {family!r}{near}")
    kind = CONFIG_MAPPING[name]
    with _making(family), quiet_loading():
        known = kind()
        sizes = {key: value for key, value in NAMES.items() if hasattr(known, key)} | FAMILIES.get(family, {})
        made: PreTrainedConfig = kind(**{key: value for key, value in sizes.items() if value is not ...})
    return made


def small_model(family: str, seed: int = 0) -> PreTrainedModel:
    """Return a small model with random weights, float32, whose texts differ and end now and then.

    Raises:
        WheelsError: where it cannot be made.
    """
    config = small_config(family)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with _making(family), torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(seed)
        model: Any = kind.from_config(config).eval()
        head: Any = model.get_output_embeddings()
        read: torch.Tensor = model.get_input_embeddings().weight.detach()
        if head.weight.shape == read.shape:
            # It dislikes the token just read: random weights with one table for both write one token for ever.
            head.weight = torch.nn.Parameter(torch.randn_like(read) * read.std() - read)
    settings = model.generation_config
    if config.is_encoder_decoder and settings.decoder_start_token_id is None:
        settings.decoder_start_token_id = START
    settings.pad_token_id, settings.eos_token_id = PAD, END
    made: PreTrainedModel = model
    return made


def small_tokenizer(*, ends_source: bool) -> Tokenizer:
    """Return a tokenizer of a word for each token; `ends_source`: a tokenized text ends with the end token."""
    words = ["<pad>", "</s>", "<s>", *(f"w{number}" for number in range(3, VOCABULARY))]
    raw = RawTokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<s>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends_source:
        raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<s>")


def small_texts(count: int) -> list[str]:
    """Return texts of different lengths, of words that the tokenizer has."""
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randperm(20, generator=generator)[:count] + 1).tolist()
    rows = (torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths)
    return [" ".join(f"w{token}" for token in row) for row in rows]


@contextmanager
def _making(family: str) -> Iterator[None]:
    """Raise what stops transformers from making a model as a `WheelsError`."""
    try:
        yield
    except Exception as error:
        raise WheelsError(f"cannot make a small {family} model: {first_line(error)}") from error
