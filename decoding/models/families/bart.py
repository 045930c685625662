"""Fast forward passes of BART and Marian: layer normalisation after each part, biases everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from wheels.decoding.models.attention import (
    AttentionInputs,
    append,
    at_positions,
    attend,
    causal_mask,
    source_mask,
    source_states,
)
from wheels.decoding.models.cache import RaggedCache
from wheels.decoding.models.families.encoders import AllLayers, among, padding_mask
from wheels.decoding.models.families.parts import LayerNorm, activation, joined
from wheels.decoding.models.linear import Linear, make_linear
from wheels.decoding.models.sources import CrossKeyValues, Encoder


@dataclass(frozen=True)
class Part:
    """Attention, or a feed-forward part; its sum with what it was given is normalised."""

    into: Linear
    """To queries, keys and values; to queries alone, where keys and values are the sources'; to the hidden layer."""
    out: Linear
    norm: LayerNorm

    def added(self, states_ND: torch.Tensor, seen_NX: torch.Tensor) -> torch.Tensor:
        """Return the states with what this part makes of `seen_NX` added, normalised."""
        return self.norm(self.out.added(states_ND, seen_NX))


@dataclass(frozen=True)
class Embedding:
    """Tokens and their positions."""

    token_VD: torch.Tensor
    scale: float
    """Of the tokens."""
    position_TD: torch.Tensor
    norm: LayerNorm | None
    """BART has one, Marian none."""

    @classmethod
    def of(cls, half: Any) -> Embedding:
        """Take the embeddings of an encoder or a decoder."""
        # Marian scales what its table says, and BART's table scales by itself.
        scale = getattr(half if hasattr(half, "embed_scale") else half.embed_tokens, "embed_scale", 1.0)
        first = getattr(half.embed_positions, "offset", 0)
        norm = LayerNorm.of(half.layernorm_embedding) if hasattr(half, "layernorm_embedding") else None
        position_TD = half.embed_positions.weight.detach()[first:]
        return cls(half.embed_tokens.weight.detach(), float(scale), position_TD, norm)

    def __call__(self, token_N: torch.Tensor, position_ND: torch.Tensor) -> torch.Tensor:
        """Return the states that the first layer reads."""
        states_ND = F.embedding(token_N, self.token_VD)
        states_ND = (states_ND if self.scale == 1.0 else states_ND * self.scale) + position_ND
        return states_ND if self.norm is None else self.norm(states_ND)


class Half:
    """What an encoder and a decoder have in common."""

    def __init__(self, half: Any) -> None:
        first = half.layers[0]
        self.heads, self.head_dim = int(first.self_attn.num_heads), int(first.self_attn.head_dim)
        self.scale, self.act = float(first.self_attn.scaling), activation(first.activation_fn, half.dtype)
        self.embedding = Embedding.of(half)


class FastBart(Half):
    """The decoder of BART or Marian."""

    def __init__(self, model: Any) -> None:
        decoder = model.model.decoder
        super().__init__(decoder)
        self.key_size = self.heads * self.head_dim
        self.layers = [(_attention(each), _cross_attention(each), _feed_forward(each)) for each in decoder.layers]
        bias_V = model.final_logits_bias[0]
        if model.lm_head.bias is not None:
            bias_V = bias_V + model.lm_head.bias.detach()
        self.head = make_linear(model.lm_head.weight.detach(), bias_V)
        self.encoder: Encoder | None = FastBartEncoder(model)

    def __call__(self, token_N: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs) -> torch.Tensor:
        """Read tokens, and return what the output head reads of them, `[N, D]`."""
        states_ND = self.embedding(token_N, at_positions(self.embedding.position_TD, inputs))
        mask, seen = causal_mask(inputs, states_ND.dtype), source_mask(inputs, states_ND.dtype)
        shape = (len(states_ND), -1, self.head_dim)
        stores = zip(self.layers, cache.self_layers, cache.cross_layers, strict=True)
        for (own, cross, feed_forward), store, source in stores:
            query_NHE, key_NHE, value_NHE = own.into(states_ND).view(shape).split(self.heads, 1)
            seen_NX = attend(query_NHE, *append(store, key_NHE, value_NHE, inputs), mask, inputs, self.scale)
            states_ND = own.added(states_ND, seen_NX)
            query_NHE = cross.into(states_ND).view(shape)
            states_ND = cross.added(states_ND, attend(query_NHE, *source_states(source), seen, inputs, self.scale))
            states_ND = feed_forward.added(states_ND, self.act(feed_forward.into(states_ND)))
        return states_ND


class FastBartEncoder(Half):
    """The encoder of BART or Marian, and the projections of its states in every layer of the decoder."""

    def __init__(self, model: Any) -> None:
        encoder = model.model.encoder
        super().__init__(encoder)
        self.layers = [(_attention(each), _feed_forward(each)) for each in encoder.layers]
        self.project = AllLayers(model)

    @torch.no_grad()
    def __call__(self, ids_RS: torch.Tensor, seen_RS: torch.Tensor) -> CrossKeyValues:
        """Read sources, padded on the right; return keys and values of each decoder layer, `[R, H, S, E]`."""
        rows, length = ids_RS.shape
        states_ND = self.embedding(ids_RS.flatten(), self.embedding.position_TD[:length].repeat(rows, 1))
        mask = padding_mask(seen_RS, states_ND.dtype)
        for own, feed_forward in self.layers:
            all_NX = own.into(states_ND)
            seen_NX = among(all_NX.view(rows, length, 3, self.heads, self.head_dim), mask, self.scale)
            states_ND = own.added(states_ND, seen_NX)
            states_ND = feed_forward.added(states_ND, self.act(feed_forward.into(states_ND)))
        return self.project(states_ND, rows)


def _attention(layer: Any) -> Part:
    """Take the weights of a layer's attention of a text to itself."""
    own = layer.self_attn
    into = joined(own.q_proj, own.k_proj, own.v_proj)
    return Part(into, joined(own.out_proj), LayerNorm.of(layer.self_attn_layer_norm))


def _cross_attention(layer: Any) -> Part:
    """Take the weights of a layer's attention to the source."""
    own = layer.encoder_attn
    return Part(joined(own.q_proj), joined(own.out_proj), LayerNorm.of(layer.encoder_attn_layer_norm))


def _feed_forward(layer: Any) -> Part:
    """Take the weights of a layer's feed-forward part."""
    return Part(joined(layer.fc1), joined(layer.fc2), LayerNorm.of(layer.final_layer_norm))
