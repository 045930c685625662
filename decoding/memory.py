"""How many texts are decoded at once under a bound of tokens, and the memory that they will need.

A text holds its source and its longest output: keys and values of that many tokens in every layer of both models. All
rows of a cache are as long as the longest, and a cache that grows doubles. So a decode needs, for R texts in flight,

    weights + R * sum over models (2 * layers * heads * head size * bytes * positions)

and the logits of a pass; `positions` are the least doubling of a block that holds the tokens. Activations come on top;
they are bounded by the chunks in which sources are read. Without a bound, the caches take `SHARE` of the memory that
is free at most: passes have fewer rows then, and the same texts come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from wheels.decoding.models.cache import capacity
from wheels.decoding.models.registry import has_fast_path
from wheels.decoding.models.sources import cross_projections
from wheels.decoding.sequences import prepare_sequences
from wheels.environment import memory
from wheels.errors import WheelsError
from wheels.finite import plain_parts
from wheels.models.pair import Pair, logits_size
from wheels.output.streams import remark

SAMPLE = 256
"""Texts that are encoded together; and where nothing is bounded, how many of the longest are looked at."""
LARGE = 1 << 30
"""Bytes from which on a decode says what it will need."""
SHARE = 0.7
"""Of the free memory, what texts in flight take at most without a bound; activations take the rest."""
NO_BOUND = 1 << 62
"""Texts that memory holds where it is not known what is free."""


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
        most: Tokens of the texts in flight at most, sources and outputs together; None: what free memory holds.
        count: How many texts are written from them; None: one each.
        kept: States of a text whose caches are kept until it has ended, to go on from there.

    Raises:
        WheelsError: where one text alone has more.
    """
    looked_at = texts if most is not None else nlargest(SAMPLE, texts, key=len)
    longest, caches = longest_of(pair, looked_at, max_new_tokens), 1 + kept
    if not longest.text:
        return batch_size
    bound = most
    if bound is not None and bound < longest.text * caches:
        raise WheelsError(
            f"max_tokens_in_flight must be at least {longest.text * caches}, what one text may take with its output"
            f"{f' and {kept} kept states' if kept else ''}, got {most}; raise it, or lower max_new_tokens"
        )
    flying = len(texts) if count is None else count
    held = bound // (longest.text * caches) if bound is not None else room_for(pair, longest) // caches
    rows = min(batch_size, max(1, (held + 1) // 2))  # as many again, but one, wait for the other model
    if most is None and held >= flying:
        rows = batch_size
    needs = needs_of(pair, longest, min(2 * rows - 1, flying) * caches)
    if needs.total >= LARGE:
        remark(str(needs))
    if most is None and rows < batch_size:
        remark(f"memory is free for {held:,} texts in flight: passes have {rows:,} rows, not {batch_size:,}")
    return rows


def room_for(pair: Pair, longest: Longest) -> int:
    """Return how many texts have room for their caches in the free memory; `NO_BOUND` where that is not known."""
    groups: list[tuple[set[torch.device], int, int]] = []  # devices, bytes of a text, bytes of weights not there yet
    for model in pair.models:
        there = [weight for weight in model.parameters() if not weight.is_meta]
        devices, row = {weight.device for weight in there} or {model.device}, row_of(model, longest)
        missing = weights_of(model) - sum(weight.nbytes for weight in there)
        for group in [group for group in groups if group[0] & devices]:
            groups.remove(group)
            devices, row, missing = devices | group[0], row + group[1], missing + group[2]
        groups.append((devices, row, missing))
    rooms = [NO_BOUND]
    for devices, row, missing in groups:
        free = [free_bytes(device) for device in devices if device.type != "meta"]
        if None not in free:
            rooms.append(int(max(SHARE * (sum(filter(None, free)) - missing), 0) // row))
    return min(rooms)


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where that cannot be asked."""
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    available = memory().get("available")
    return None if available is None else int(available * 2**30)


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
    return Needs(weights, rows, sum(row_of(model, longest) for model in pair.models))


def row_of(model: PreTrainedModel, longest: Longest) -> int:
    """Return the bytes of a text in flight: its cache, and its logits."""
    longest = Longest(longest.source, capacity(longest.output + 1) - 1, capacity(longest.text))
    return cache_bytes(model, longest) + 4 * logits_size(model)


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
