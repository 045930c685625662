"""How many texts are decoded at once under a bound of tokens, and the memory that they will need.

A text holds its source and its longest output: keys and values of that many tokens in every layer of both models. All
rows of a cache are as long as the longest, and a cache that grows doubles. So a decode needs, for R texts in flight,

    weights + R * sum over models (2 * layers * heads * head size * bytes * positions)

and the logits of a pass; `positions` are the least doubling of a block that holds the tokens. Activations come on top;
they are bounded by the chunks in which sources are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from transformers import PreTrainedModel

from wheels.decoding.models.cache import capacity
from wheels.decoding.models.registry import has_fast_path
from wheels.decoding.models.sources import cross_projections
from wheels.decoding.sequences import prepare_sequences
from wheels.errors import WheelsError
from wheels.finite import plain_parts
from wheels.models.pair import Pair, logits_size
from wheels.output.streams import remark

SAMPLE = 256
"""Texts whose length is looked at where nothing is bounded; and those that are encoded together."""
LARGE = 1 << 30
"""Bytes from which on a decode says what it will need."""


class Texts(Sized, Iterable[str], Protocol):
    """Texts that can be read more than once."""


@dataclass(frozen=True)
class Longest:
    """The longest of some texts."""

    source: int = 0
    """Tokens of a source, or of a prompt."""
    output: int = 0
    """Tokens of an output."""
    text: int = 0
    """Tokens of a source with its output."""


@dataclass(frozen=True)
class Needs:
    """The memory of a decode, in bytes."""

    weights: int
    """Of both models."""
    rows: int
    """Texts in flight."""
    row: int
    """Of each of them."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.rows * self.row

    def __str__(self) -> str:
        parts = (self.total, self.weights, self.row)
        total, weights, row = (f"{size / (1 << 20):,.0f} MiB" for size in parts)
        return f"memory: about {total}: weights {weights}, and {row} for each of {self.rows:,} texts in flight"


def rows_for(
    pair: Pair,
    texts: Texts,
    max_new_tokens: int,
    batch_size: int,
    most: int | None,
    *,
    count: int | None = None,
    kept: int = 0,
) -> int:
    """Return the rows of a pass under a bound of tokens in flight, and say what memory is needed, if much.

    Args:
        pair: Both models.
        texts: All that are going to be written from.
        max_new_tokens: The most tokens of an output.
        batch_size: The most rows.
        most: Tokens of the texts in flight at most, sources and outputs together; None: no bound.
        count: How many texts are written from them; None: one each.
        kept: States of a text whose caches are kept until it has ended, to go on from there.

    Raises:
        WheelsError: where one text alone has more.
    """
    longest = longest_of(pair, texts if most is not None else islice(texts, SAMPLE), max_new_tokens)
    rows = batch_size
    if most is not None and longest.text:
        if most < longest.text:
            raise WheelsError(
                f"max_tokens_in_flight must be at least {longest.text}, what one text may take with its "
                f"output, got {most}; raise it, or lower max_new_tokens"
            )
        rows = min(batch_size, (most // longest.text + 1) // 2)  # as many again, but one, wait for the other model
    flying = min(2 * rows - 1, len(texts) if count is None else count)
    needs = needs_of(pair, longest, flying * (1 + kept))
    if needs.total >= LARGE:
        remark(str(needs))
    return rows


def longest_of(pair: Pair, texts: Iterable[str], max_new_tokens: int) -> Longest:
    """Return the longest of some texts; those that cannot be read have no length."""
    longest, rest = Longest(), iter(texts)
    while block := list(islice(rest, SAMPLE)):
        for each in prepare_sequences(pair, block, max_new_tokens, on_error="skip"):
            if each.error is None:
                source = len(each.source)
                longest = Longest(
                    max(longest.source, source),
                    max(longest.output, each.limit),
                    max(longest.text, source + each.limit),
                )
    return longest


def needs_of(pair: Pair, longest: Longest, rows: int) -> Needs:
    """Return the memory of a decode of texts that are as long as the longest."""
    weights = sum(weights_of(model) for model in pair.models)
    longest = Longest(longest.source, capacity(longest.output + 1) - 1, capacity(longest.text))
    row = sum(cache_bytes(model, longest) + 4 * logits_size(model) for model in pair.models)
    return Needs(weights, rows, row)


def weights_of(model: PreTrainedModel) -> int:
    """Return the bytes of a model's weights, those that the fast path copies among them."""
    parts = (part for weight in model.parameters() for part in plain_parts(weight.detach()))
    size = sum(part.numel() * part.element_size() for part in parts if not part.is_meta)
    embeddings: Any = model.get_input_embeddings()
    table = embeddings.weight
    return int(2 * size - table.numel() * table.element_size()) if has_fast_path(model) else size


def cache_bytes(model: PreTrainedModel, longest: Longest) -> int:
    """Return the bytes of the keys and values of one text."""
    config: Any = model.config.get_text_config(decoder=True)
    queries = getattr(model.config, "decoder_attention_heads", None) or config.num_attention_heads
    heads = queries if model.config.is_encoder_decoder else getattr(config, "num_key_value_heads", None) or queries
    size = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or config.hidden_size // queries
    cross = bool(model.config.is_encoder_decoder)
    layers = len(cross_projections(model)) if cross else config.num_hidden_layers
    tokens = longest.source + longest.output + 1 if cross else longest.text
    return int(2 * layers * heads * size * tokens * model.dtype.itemsize)
