"""Fast forward passes: decoders in plain tensor operations.

Much of a pass in the library is not arithmetic, of a small model's most: modules are called, masks and rotary angles
made anew, settings looked up. Here the weights are taken out of the model once, what belongs together is multiplied at
once (query, key and value; gate and up), and positions come from tables. The sums are those of the library, and keys
and values lie in the same store (`wheels.decoding.models.cache`). The library's forward remains the obvious path: tests
hold both equal. Which models are read so, `wheels.decoding.models.registry` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from wheels.decoding.models.attention import (
    AttentionBias,
    AttentionInputs,
    append,
    at_positions,
    attend,
    causal_mask,
    source_mask,
    source_states,
    text_bias,
)
from wheels.decoding.models.cache import RaggedCache
from wheels.decoding.models.families.encoders import FastT5Encoder
from wheels.decoding.models.families.parts import (
    Attention,
    FeedForward,
    activation,
    joined,
    normed,
    t5_attention,
    t5_biases,
    t5_feed_forward,
)
from wheels.decoding.models.linear import Linear
from wheels.decoding.models.sources import Encoder

FIRST_TABLE = 256
"""Positions that a table of positions has at least."""

Table = tuple[torch.Tensor, ...]


class FastDecoder(Protocol):
    """The decoder of one model."""

    head: Linear
    """The output head."""
    encoder: Encoder | None
    """Reads the sources, where the model has an encoder."""
    key_size: int
    """Numbers of a position's keys in a layer."""

    def __call__(self, token_N: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs) -> torch.Tensor:
        """Read tokens, and return what the output head reads of them, `[N, D]`."""


@dataclass(frozen=True)
class CrossAttention:
    """Attention to the sources, whose keys and values lie in the cache."""

    norm_D: torch.Tensor
    query: Linear
    out: Linear


class FastLlama:
    """Llama, and Qwen 3 with its norms of queries and keys."""

    encoder: Encoder | None = None

    def __init__(self, model: Any) -> None:
        body = model.model
        first = body.layers[0].self_attn
        self.eps, self.scale = float(body.norm.variance_epsilon), float(first.scaling)
        self.head_dim = int(first.head_dim)
        self.heads = first.q_proj.out_features // self.head_dim
        self.key_size = first.k_proj.out_features
        self.kept = self.key_size // self.head_dim
        self.embedding_VD, self.final_norm_D = body.embed_tokens.weight.detach(), body.norm.weight.detach()
        self.head = joined(model.lm_head)
        self.layers = [(_llama_attention(layer), _llama_feed_forward(layer)) for layer in body.layers]
        self.angles = body.rotary_emb
        self.rotation = self._rotation(FIRST_TABLE)

    def __call__(self, token_N: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs) -> torch.Tensor:
        """Read tokens, and return what the output head reads of them, `[N, D]`."""
        states_ND = F.embedding(token_N, self.embedding_VD)
        turn, mask = self._turn(inputs), causal_mask(inputs, states_ND.dtype)
        for (attention, feed_forward), store in zip(self.layers, cache.self_layers, strict=True):
            both_NGE, value_NHE = self._projected(states_ND, attention)
            both_NGE = rotated(both_NGE, *turn)
            query_NHE, key_NHE = both_NGE.split((self.heads, self.kept), 1)
            keys, values = append(store, key_NHE, value_NHE, inputs)
            seen_NX = attend(query_NHE, keys, values, mask, inputs, self.scale)
            states_ND = attention.out.added(states_ND, seen_NX)
            states_ND = feed_forward.add_to(states_ND, self.eps)
        return normed(states_ND, self.final_norm_D, self.eps)

    def _projected(self, states_ND: torch.Tensor, attention: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        """Return queries and keys together, `[N, heads + kept, E]`, and values, `[N, kept, E]`."""
        all_NX = attention.into(normed(states_ND, attention.norm_D, self.eps))
        all_NGE = all_NX.view(len(states_ND), self.heads + 2 * self.kept, self.head_dim)
        both_NGE, value_NHE = all_NGE.split((self.heads + self.kept, self.kept), 1)
        if attention.query_norm_E is not None and attention.key_norm_E is not None:
            query_NHE, key_NHE = both_NGE.split((self.heads, self.kept), 1)
            own = normed(query_NHE, attention.query_norm_E, self.eps), normed(key_NHE, attention.key_norm_E, self.eps)
            both_NGE = torch.cat(own, 1)
        return both_NGE, value_NHE

    def _rotation(self, length: int) -> Table:
        """Return cosines and sines of positions below `length`, `[length, 1, E]`; the sines as `rotated` wants them."""
        position_1T = torch.arange(length, device=self.embedding_VD.device)[None]
        cos_1TE, sin_1TE = self.angles(self.embedding_VD[:1], position_1T)
        sign_E = torch.ones_like(sin_1TE[0, 0])
        sign_E[: self.head_dim // 2] = -1
        return cos_1TE[0, :, None].contiguous(), (sin_1TE[0, :, None] * sign_E).contiguous()

    def _turn(self, inputs: AttentionInputs) -> Table:
        """Return the cosines and sines of the tokens' positions."""
        visible = inputs.write.visible
        if visible > len(self.rotation[0]):
            self.rotation = self._rotation(2 * visible)
        return tuple(at_positions(table, inputs) for table in self.rotation)


class FastT5:
    """The decoder of T5: a bias by distance in place of positions, and attention to the source."""

    def __init__(self, model: Any) -> None:
        decoder = model.decoder
        first = decoder.block[0].layer[0].SelfAttention
        self.eps, self.head_dim = float(decoder.final_layer_norm.variance_epsilon), int(first.key_value_proj_dim)
        self.heads, self.scale = int(first.n_heads), float(first.scaling)
        self.key_size = self.heads * self.head_dim
        self.embedding_VD = decoder.embed_tokens.weight.detach()
        self.final_norm_D = decoder.final_layer_norm.weight.detach()
        self.head = joined(model.lm_head)
        self.head_scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else 1.0
        self.encoder: Encoder | None = FastT5Encoder(model)
        self.layers = [_t5_layer(*block.layer) for block in decoder.block]
        limit = int(first.relative_attention_max_distance)
        distance_T = torch.arange(limit + 1, device=self.embedding_VD.device)
        self.bias_HT = t5_biases(first, -distance_T, bidirectional=False)
        self.ramp_HT = self._ramp(FIRST_TABLE)

    def __call__(self, token_N: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs) -> torch.Tensor:
        """Read tokens, and return what the output head reads of them, `[N, D]`."""
        states_ND = F.embedding(token_N, self.embedding_VD)
        bias, seen = self._bias(inputs), source_mask(inputs, states_ND.dtype)
        shape = (len(states_ND), -1, self.head_dim)
        stores = zip(self.layers, cache.self_layers, cache.cross_layers, strict=True)
        for (own, cross, feed_forward), store, source in stores:
            all_NX = own.into(normed(states_ND, own.norm_D, self.eps))
            query_NHE, key_NHE, value_NHE = all_NX.view(shape).split(self.heads, 1)
            keys, values = append(store, key_NHE, value_NHE, inputs)
            seen_NX = attend(query_NHE, keys, values, bias, inputs, self.scale)
            states_ND = own.out.added(states_ND, seen_NX)
            query_NHE = cross.query(normed(states_ND, cross.norm_D, self.eps)).view(shape)
            seen_NX = attend(query_NHE, *source_states(source), seen, inputs, self.scale)
            states_ND = cross.out.added(states_ND, seen_NX)
            states_ND = feed_forward.add_to(states_ND, self.eps)
        states_ND = normed(states_ND, self.final_norm_D, self.eps)
        return states_ND if self.head_scale == 1.0 else states_ND * self.head_scale

    def _ramp(self, length: int) -> torch.Tensor:
        """Return the biases of distances `length - 1, ..., 0`; behind them minus infinity, for what is not seen."""
        distance_T = torch.arange(length - 1, -1, -1, device=self.bias_HT.device).clamp(max=self.bias_HT.shape[1] - 1)
        return F.pad(self.bias_HT[:, distance_T], (0, length), value=-torch.inf)

    def _bias(self, inputs: AttentionInputs) -> AttentionBias:
        """Return what is added to the scores of attention: `[R, H, K, visible]`, or `[1, H, 1, visible]` for all."""
        visible, length = inputs.write.visible, self.ramp_HT.shape[1] // 2
        if visible > length:
            length = 2 * visible
            self.ramp_HT = self._ramp(length)
        if inputs.aligned:
            return self.ramp_HT[None, :, None, length - visible : length]
        key_L = torch.arange(length - 1, length - 1 + visible, device=inputs.positions_RK.device)
        return text_bias(inputs, self.ramp_HT[:, key_L - inputs.positions_RK[:, :, None]].transpose(0, 1))


def rotated(values_NHE: torch.Tensor, cos_N1E: torch.Tensor, sin_N1E: torch.Tensor) -> torch.Tensor:
    """Turn each pair `(x_i, x_{i + E/2})` by its angle; the sine of the first half has its sign turned already."""
    other_NHE = values_NHE.roll(values_NHE.shape[-1] // 2, -1)
    if values_NHE.dtype != torch.bfloat16:
        return torch.addcmul(values_NHE * cos_N1E, other_NHE, sin_N1E)
    return values_NHE * cos_N1E + other_NHE * sin_N1E


def _llama_attention(layer: Any) -> Attention:
    """Take the weights of a Llama or Qwen layer's attention."""
    own = layer.self_attn
    norms = [getattr(own, name).weight.detach() if hasattr(own, name) else None for name in ("q_norm", "k_norm")]
    into = joined(own.q_proj, own.k_proj, own.v_proj)
    return Attention(layer.input_layernorm.weight.detach(), into, joined(own.o_proj), *norms)


def _llama_feed_forward(layer: Any) -> FeedForward:
    """Take the weights of a Llama or Qwen layer's feed-forward part."""
    own = layer.mlp
    into = joined(own.gate_proj, own.up_proj)
    norm_D = layer.post_attention_layernorm.weight.detach()
    return FeedForward(norm_D, into, joined(own.down_proj), activation(own.act_fn, norm_D.dtype), True)


def _t5_layer(first: Any, second: Any, third: Any) -> tuple[Attention, CrossAttention, FeedForward]:
    """Take the weights of a layer of T5's decoder."""
    cross = second.EncDecAttention
    query = CrossAttention(second.layer_norm.weight.detach(), joined(cross.q), joined(cross.o))
    return t5_attention(first), query, t5_feed_forward(third)
