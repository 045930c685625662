"""Positions of rows that stand at different lengths, for each way in which a family of models knows them.

Causal models take `position_ids`. T5 adds a bias by distance inside its first decoder layer; Marian, BART and their kin
look positions up in an embedding of the decoder. Both are handed the rows' own positions for one forward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from wheels.decoding.models.packing import Packing
from wheels.errors import WheelsError
from wheels.models.loading import ATTENTION

MECHANISMS = (
    "alibi",
    "attention_types",
    "attention_chunk_size",
    "attention_type",
    "attention_window",
    "encoder_attention_type",
    "local_attention",
    "expert_capacity",
    "moe_eval_capacity_token_fraction",
    "index_topk",
)
"""Settings of windows, chunks, biases and full experts, by their names in the library's configurations."""
PLAIN_KINDS = ("full_attention", "full", "original_full", "local")
"""Values of theirs that change nothing; LongT5's encoder sees a window that is the row's own."""


class Positions(Protocol):
    """How one family of models is told its rows' positions."""

    def __call__(self, positions_RK: torch.Tensor, visible: int, packing: Packing | None = None) -> Any:
        """Return a context within which the model sees these positions; it yields extra keyword arguments.

        Args:
            positions_RK: The position of each token that a row reads.
            visible: Positions that attention looks at, from 0.
            packing: How the tokens stand in a line, where they do.
        """


class PositionIds:
    """Models that take `position_ids`: Llama, Qwen, GPT-2 and most causal models."""

    @contextmanager
    def __call__(
        self, positions_RK: torch.Tensor, visible: int, packing: Packing | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Hand the positions over as an argument."""
        yield {"position_ids": positions_RK if packing is None else packing.pack(positions_RK)}


class RelativeBias:
    """T5: a learned bias for each distance between query and key: one for all layers of the decoder, or one for each.

    Args:
        attentions: The self-attention of each layer; those without a bias of their own take the first one's.
    """

    def __init__(self, attentions: list[Any]) -> None:
        self.attentions = [each for each in attentions if each.has_relative_attention_bias]
        first = self.attentions[0]
        self.limit = int(first.relative_attention_max_distance)
        distance_D = torch.arange(self.limit + 1, device=first.relative_attention_bias.weight.device)
        self.bucket_D = buckets_of(first, -distance_D, bidirectional=False)

    @contextmanager
    def __call__(
        self, positions_RK: torch.Tensor, visible: int, packing: Packing | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Replace the layers' own bias, which knows one position for all rows, by the rows' own.

        `bias[r, h, k, j] = table[min(position[r, k] - j, limit), h]`; distances below 0 are masked anyway.
        """
        key_L = torch.arange(visible, device=positions_RK.device)
        bucket_RKL = self.bucket_D[(positions_RK[:, :, None] - key_L).clamp_(0, self.limit)]
        try:
            for attention in self.attentions:
                bias = attention.relative_attention_bias(bucket_RKL).permute(0, 3, 1, 2)
                attention.compute_bias = lambda *args, bias=bias, **kwargs: bias
            yield {}
        finally:
            for attention in self.attentions:
                vars(attention).pop("compute_bias", None)


def buckets_of(attention: Any, relative_T: torch.Tensor, *, bidirectional: bool) -> torch.Tensor:
    """Return T5's buckets of relative positions, key minus query; both ways in an encoder."""
    settings: dict[str, Any] = {}
    # UMT5's attention knows by itself where it stands.
    if "bidirectional" in inspect.signature(attention._relative_position_bucket).parameters:
        settings = {
            "bidirectional": bidirectional,
            "num_buckets": attention.relative_attention_num_buckets,
            "max_distance": attention.relative_attention_max_distance,
        }
    bucket_T: torch.Tensor = attention._relative_position_bucket(relative_T, **settings)
    return bucket_T


class EmbeddedPositions:
    """Marian, BART and their kin: an embedding of positions in the decoder that takes `position_ids`."""

    def __init__(self, embedding: Any) -> None:
        self.embedding = embedding

    @contextmanager
    def __call__(
        self, positions_RK: torch.Tensor, visible: int, packing: Packing | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Look up the rows' own positions in place of the common ones."""
        positions_RK = positions_RK if packing is None else packing.pack(positions_RK)
        own: Callable[..., torch.Tensor] = type(self.embedding).forward
        embedding, shape = self.embedding, (*positions_RK.shape, -1)
        embedding.forward = lambda first, *args, **kwargs: own(embedding, first, position_ids=positions_RK).reshape(
            shape
        )
        try:
            yield {}
        finally:
            del embedding.forward


def positions_for(model: PreTrainedModel) -> Positions:
    """Return the way in which `model` is told its rows' positions.

    Raises:
        WheelsError: where the family offers no way that is known.
    """
    if (company := _company(model)) is not None:
        raise _unknown(model, f"{company} makes a row depend on more than its own past")
    if not model.config.is_encoder_decoder:
        if "position_ids" in inspect.signature(model.forward).parameters:
            return PositionIds()
        raise _unknown(model, "it takes no position_ids")
    decoder: Any = model.get_decoder()
    if hasattr(decoder, "block") and hasattr(decoder.block[0].layer[0], "SelfAttention"):
        return RelativeBias([block.layer[0].SelfAttention for block in decoder.block])
    embedding = getattr(decoder, "embed_positions", None)
    if embedding is not None and "position_ids" in inspect.signature(embedding.forward).parameters:
        return EmbeddedPositions(embedding)
    raise _unknown(model, "its decoder has neither a relative bias nor an embedding of positions that can be told")


def _company(model: PreTrainedModel) -> str | None:
    """Name the setting of `model` by which a token does not see its own text by distances alone; None: there is none.

    Windows and chunks hide the past by the cache's length, biases count distances from the mask, and an expert that is
    full drops the tokens of whoever comes last.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and (other := next((kind for kind in kinds if kind != "full_attention"), None)) is not None:
        return f"a layer of {other}"
    if kinds is None and getattr(config, "sliding_window", None) is not None:
        return f"sliding_window={config.sliding_window}"
    for name in MECHANISMS:
        value = getattr(config, name, None)
        if value and value not in PLAIN_KINDS:
            return f"{name}={value!r}"
    attention = model.config._attn_implementation
    return None if attention in ATTENTION else f"attention {attention!r}, which reads no mask of its own for each row,"


def _unknown(model: PreTrainedModel, reason: str) -> WheelsError:
    return WheelsError(
        f"models of type {model.config.model_type!r} ({model.config.name_or_path or 'in memory'}) cannot be decoded: "
        f"{reason}; T5, Marian, BART, Llama, Qwen and GPT-2 models can"
    )
