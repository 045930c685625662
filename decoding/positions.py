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

from wheels.decoding.packing import Packing
from wheels.errors import WheelsError


class Positions(Protocol):
    """How one family of models is told its rows' positions."""

    def __call__(self, position_RK: torch.Tensor, visible: int, packing: Packing | None = None) -> Any:
        """Return a context within which the model sees these positions; it yields extra keyword arguments.

        Args:
            position_RK: The position of each token that a row reads.
            visible: Positions that attention looks at, from 0.
            packing: How the tokens stand in a line, where they do.
        """


class PositionIds:
    """Models that take `position_ids`: Llama, Qwen, GPT-2 and most causal models."""

    @contextmanager
    def __call__(
        self, position_RK: torch.Tensor, visible: int, packing: Packing | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Hand the positions over as an argument."""
        yield {"position_ids": position_RK if packing is None else packing.packed(position_RK)}


class RelativeBias:
    """T5: a learned bias for each distance between query and key, shared by all layers of the decoder."""

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.limit = int(attention.relative_attention_max_distance)
        distance_D = torch.arange(self.limit + 1, device=attention.relative_attention_bias.weight.device)
        self.bucket_D = buckets_of(attention, -distance_D, bidirectional=False)

    @contextmanager
    def __call__(
        self, position_RK: torch.Tensor, visible: int, packing: Packing | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Replace the layer's own bias, which knows one position for all rows, by the rows' own."""
        bias = self._bias(position_RK, visible)
        self.attention.compute_bias = lambda *args, **kwargs: bias
        try:
            yield {}
        finally:
            del self.attention.compute_bias

    def _bias(self, position_RK: torch.Tensor, visible: int) -> torch.Tensor:
        """Return `bias[r, h, k, j] = table[min(position[r, k] - j, limit), h]`; distances below 0 are masked anyway."""
        key_L = torch.arange(visible, device=position_RK.device)
        distance_RKL = (position_RK[:, :, None] - key_L).clamp_(0, self.limit)
        return self.attention.relative_attention_bias(self.bucket_D[distance_RKL]).permute(0, 3, 1, 2)


def buckets_of(attention: Any, relative_T: torch.Tensor, *, bidirectional: bool) -> torch.Tensor:
    """Return T5's buckets of relative positions, key minus query; both ways in an encoder."""
    bucket_T: torch.Tensor = attention._relative_position_bucket(
        relative_T,
        bidirectional=bidirectional,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return bucket_T


class EmbeddedPositions:
    """Marian, BART and their kin: an embedding of positions in the decoder that takes `position_ids`."""

    def __init__(self, embedding: Any) -> None:
        self.embedding = embedding

    @contextmanager
    def __call__(
        self, position_RK: torch.Tensor, visible: int, packing: Packing | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Look up the rows' own positions in place of the common ones."""
        position_RK = position_RK if packing is None else packing.packed(position_RK)
        own: Callable[..., torch.Tensor] = type(self.embedding).forward
        embedding, shape = self.embedding, (*position_RK.shape, -1)
        embedding.forward = lambda first, *args, **kwargs: own(embedding, first, position_ids=position_RK).reshape(
            shape
        )
        try:
            yield {}
        finally:
            del embedding.forward


def positions_of(model: PreTrainedModel) -> Positions:
    """Return the way in which `model` is told its rows' positions.

    Raises:
        WheelsError: where the family offers no way that is known.
    """
    if not model.config.is_encoder_decoder:
        if "position_ids" in inspect.signature(model.forward).parameters and _is_plain(model):
            return PositionIds()
        raise _unknown(model, "it takes no position_ids, or does not attend to the whole past by these alone")
    decoder: Any = model.get_decoder()
    if hasattr(decoder, "block") and hasattr(decoder.block[0].layer[0], "SelfAttention"):
        return RelativeBias(decoder.block[0].layer[0].SelfAttention)
    embedding = getattr(decoder, "embed_positions", None)
    if embedding is not None and "position_ids" in inspect.signature(embedding.forward).parameters:
        return EmbeddedPositions(embedding)
    raise _unknown(model, "its decoder has neither a relative bias nor an embedding of positions that can be told")


def _is_plain(model: PreTrainedModel) -> bool:
    """Tell whether every layer of `model` attends to the whole past, and knows distances by `position_ids` alone."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) if kinds is None else None
    # GPT-Neo cuts its mask out of a table by the cache's length, and ALiBi counts distances from the mask.
    special = bool(getattr(config, "attention_types", None)) or bool(getattr(config, "alibi", False))
    return all(kind == "full_attention" for kind in kinds or ()) and window is None and not special


def _unknown(model: PreTrainedModel, reason: str) -> WheelsError:
    return WheelsError(
        f"models of type {model.config.model_type!r} ({model.config.name_or_path or 'in memory'}) cannot be decoded: "
        f"{reason}; T5, Marian, BART, Llama, Qwen and GPT-2 models can"
    )
