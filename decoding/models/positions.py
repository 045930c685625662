"""How the library's models are told the positions of a ragged batch, for each way in which families encode them.

Causal models take `position_ids`. T5 adds a bias by distance in its first decoder layer; Marian, BART and relatives
look positions up in an embedding of the decoder. Both are patched for the time of one forward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.config.fields import ATTENTION
from wheels.decoding.models.inputs import AttentionInputs
from wheels.models.devices import device_of
from wheels.models.families import FamilyRefused, check_family

Positions = Callable[[AttentionInputs], AbstractContextManager[dict[str, torch.Tensor]]]
"""A context in which a model uses the positions of these inputs; it yields extra keyword arguments of its forward."""


@contextmanager
def position_ids(inputs: AttentionInputs) -> Iterator[dict[str, torch.Tensor]]:
    """Models that take `position_ids`: Llama, Qwen, GPT-2 and most causal models."""
    yield {"position_ids": inputs.write.positions_RK}


class RelativeBias:
    """T5: a learned bias for each distance between query and key, shared by the decoder's layers or one for each.

    Args:
        attentions: The self-attention of each layer; those without a bias of their own take the first one's.
        device: Where the model takes its tokens.
    """

    def __init__(self, attentions: list[Any], device: torch.device) -> None:
        self.attentions = [each for each in attentions if each.has_relative_attention_bias]
        first = self.attentions[0]
        self.limit = int(first.relative_attention_max_distance)
        distance_D = torch.arange(self.limit + 1, device=device)
        self.bucket_D = buckets_of(first, -distance_D, bidirectional=False)

    @contextmanager
    def __call__(self, inputs: AttentionInputs) -> Iterator[dict[str, torch.Tensor]]:
        """Replace the layers' bias, which assumes one position for all rows.

        `bias[r, h, k, j] = table[min(position[r, k] - j, limit), h]`; negative distances are masked anyway.
        """
        key_L = torch.arange(inputs.visible, device=inputs.positions_RK.device)
        bucket_RKL = self.bucket_D[(inputs.positions_RK[:, :, None] - key_L).clamp_(0, self.limit)]
        try:
            for attention in self.attentions:
                bias = attention.relative_attention_bias(bucket_RKL).permute(0, 3, 1, 2)
                attention.compute_bias = lambda *args, bias=bias, **kwargs: bias
            yield {}
        finally:
            for attention in self.attentions:
                vars(attention).pop("compute_bias", None)


def buckets_of(attention: Any, relative_T: torch.Tensor, *, bidirectional: bool) -> torch.Tensor:
    """Return T5's buckets of relative positions, key minus query; an encoder's are bidirectional."""
    settings: dict[str, Any] = {}
    # UMT5's attention has these settings itself.
    if "bidirectional" in inspect.signature(attention._relative_position_bucket).parameters:
        settings = {
            "bidirectional": bidirectional,
            "num_buckets": attention.relative_attention_num_buckets,
            "max_distance": attention.relative_attention_max_distance,
        }
    bucket_T: torch.Tensor = attention._relative_position_bucket(relative_T, **settings)
    return bucket_T


class EmbeddedPositions:
    """Marian, BART and relatives: a position embedding in the decoder that takes `position_ids`."""

    def __init__(self, embedding: Any) -> None:
        self.embedding = embedding
        self.own, self.hooked = embedding.forward, "forward" in vars(embedding)

    @contextmanager
    def __call__(self, inputs: AttentionInputs) -> Iterator[dict[str, torch.Tensor]]:
        """Look up each row's own positions instead of one position for all."""
        positions_RK = inputs.write.positions_RK
        self.embedding.forward = lambda read, *args, **kwargs: self.look_up(read, positions_RK).reshape(
            *positions_RK.shape, -1
        )
        try:
            yield {}
        finally:
            del self.embedding.forward
            if self.hooked:
                self.embedding.forward = self.own

    def look_up(self, read: torch.Tensor, positions_RK: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of positions; `read` is what the decoder gives its embedding."""
        embedded: torch.Tensor = self.own(read, position_ids=positions_RK)
        return embedded


class ComputedPositions(EmbeddedPositions):
    """PegasusX: sines and cosines, computed for the positions of a single row."""

    def look_up(self, read: torch.Tensor, positions_RK: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of positions; `read` are the embedded tokens, `[R, K, D]`."""
        as_row = read.reshape(1, -1, read.shape[-1])
        embedded: torch.Tensor = self.own(as_row, position_ids=positions_RK.reshape(-1, 1))
        return embedded


class PaddedPositions(EmbeddedPositions):
    """M2M100 and NLLB: the table's position 0 follows that of padding, which is also where padding is written."""

    def look_up(self, read: torch.Tensor, positions_RK: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of positions; `read` are the tokens, `[R, K]`."""
        padding = self.embedding.padding_idx
        place_RK = (positions_RK + padding + 1).where(read != padding, padding)
        if (longest := int(place_RK.max()) + 1) > len(self.embedding.weights):
            self.embedding.make_weights(longest, self.embedding.embedding_dim, padding)
        table: torch.Tensor = self.embedding.weights
        return table[place_RK.to(table.device)]


class KeyBias:
    """BLOOM: a bias of each head that grows with the key's position (ALiBi), the same for all rows."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    @contextmanager
    def __call__(self, inputs: AttentionInputs) -> Iterator[dict[str, torch.Tensor]]:
        """Give the bias of all visible positions, instead of one from a mask with two axes."""
        own, seen_RL = type(self.decoder).build_alibi_tensor, (len(inputs.rows), inputs.visible)
        mask_RL = torch.ones(seen_RL, dtype=torch.long, device=inputs.positions_RK.device)
        self.decoder.build_alibi_tensor = lambda mask, heads, dtype: own(self.decoder, mask_RL, heads, dtype)
        try:
            yield {}
        finally:
            del self.decoder.build_alibi_tensor


@contextmanager
def no_positions(inputs: AttentionInputs) -> Iterator[dict[str, torch.Tensor]]:
    """MPT: a bias by the distance from the last key, which adds the same number to all keys of a row."""
    yield {}


@contextmanager
def decoder_position_ids(inputs: AttentionInputs) -> Iterator[dict[str, torch.Tensor]]:
    """T5Gemma: the decoder takes positions, as a causal model does."""
    yield {"decoder_position_ids": inputs.write.positions_RK}


def positions_for(model: PreTrainedModel) -> Positions:
    """Return how `model` is told the positions of its rows.

    Raises:
        WheelsError: where its family offers no known way.
    """
    check_family(model.config)
    if (attention := model.config._attn_implementation) not in ATTENTION:
        raise FamilyRefused(model.config, f"attention {attention!r} reads no mask of its own for each row")
    if "position_ids" in inspect.signature(model.forward).parameters and not model.config.is_encoder_decoder:
        return position_ids
    decoder: Any = model.get_decoder()
    embedding = getattr(decoder, "embed_positions", None)
    if hasattr(decoder, "build_alibi_tensor"):
        return KeyBias(decoder)
    if hasattr(decoder, "build_mpt_alibi_tensor"):
        return no_positions
    if hasattr(decoder, "block") and hasattr(decoder.block[0].layer[0], "SelfAttention"):
        return RelativeBias([block.layer[0].SelfAttention for block in decoder.block], device_of(model))
    if hasattr(embedding, "create_position_ids_from_input_ids"):
        return PaddedPositions(embedding)
    if hasattr(embedding, "max_scale"):
        return ComputedPositions(embedding)
    if embedding is not None and "position_ids" in inspect.signature(embedding.forward).parameters:
        return EmbeddedPositions(embedding)
    if "decoder_position_ids" in inspect.signature(model.forward).parameters:
        return decoder_position_ids
    raise FamilyRefused(model.config, "its decoder can be told no position of each row")
