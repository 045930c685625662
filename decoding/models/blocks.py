"""Transformer blocks as data: a family of models is a list of these, filled with its weights.

Each sublayer adds to the residual stream, `x + out(f(x))`, and normalizes once: what `f` reads (pre-norm: Llama, GPT-2,
T5) or the sum (post-norm: BART, Marian).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from wheels.decoding.models.attention import AttentionBias, AttentionInputs, attend
from wheels.decoding.models.cache import CrossAttentionLayer, SelfAttentionLayer
from wheels.decoding.models.fixed_shape import attention
from wheels.decoding.models.linear import Linear

Function = Callable[[torch.Tensor], torch.Tensor]
"""An activation or a normalization."""
Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine of each token's rotary angles, both `[N or 1, 1, E]`."""


def identity(states: torch.Tensor) -> torch.Tensor:
    """Return the states as they are: no normalization here."""
    return states


@dataclass(frozen=True)
class RMSNorm:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis."""

    weight_D: torch.Tensor
    eps: float

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return the normalized states."""
        if states.dtype != torch.bfloat16:
            return torch.rms_norm(states, self.weight_D.shape, self.weight_D, self.eps)
        # Here and below bfloat16 is rounded where the library rounds it, so that both choose the same tokens.
        exact = states.float()
        scaled = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return self.weight_D * scaled.to(states.dtype)


@dataclass(frozen=True)
class LayerNorm:
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last axis."""

    weight_D: torch.Tensor
    bias_D: torch.Tensor
    eps: float

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return the normalized states."""
        return torch.layer_norm(states, self.weight_D.shape, self.weight_D, self.bias_D, self.eps)


@dataclass(frozen=True)
class Scaled:
    """A norm times a number."""

    norm: Function
    factor: float

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return the scaled normalized states."""
        return self.norm(states) * self.factor


@dataclass(frozen=True)
class Embedding:
    """Token embeddings, and learned positions where the family has them."""

    token_VD: torch.Tensor
    position_TD: torch.Tensor | None = None
    scale: float = 1.0
    """Of the token embeddings."""
    norm: Function = identity

    def __call__(self, token_N: torch.Tensor, at_positions: Function) -> torch.Tensor:
        """Return what the first block reads, `[N, D]`; `at_positions` looks up the tokens' rows of a table."""
        states_ND = F.embedding(token_N, self.token_VD)
        if self.scale != 1.0:
            states_ND = states_ND * self.scale
        if self.position_TD is not None:
            states_ND = states_ND + at_positions(self.position_TD)
        return self.norm(states_ND)


@dataclass(frozen=True)
class SelfAttention:
    """Attention of a text to itself; grouped-query where there are fewer key-value heads than query heads."""

    qkv: Linear
    """The fused projection to queries, keys and values."""
    out: Linear
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    """Of the attention scores."""
    pre_norm: Function = identity
    post_norm: Function = identity
    query_norm: Function | None = None
    """Over each head's queries, before they are rotated; together with `key_norm` or not at all."""
    key_norm: Function | None = None

    def __call__(
        self,
        states_ND: torch.Tensor,
        store: SelfAttentionLayer,
        bias: AttentionBias,
        rotation: Rotation | None,
        inputs: AttentionInputs,
    ) -> torch.Tensor:
        """Append the tokens' keys and values to the KV cache, and attend to all that each row sees there."""
        query_NHE, key_NGE, value_NGE = self._project(self.pre_norm(states_ND), rotation)
        attended_NX = attend(query_NHE, *store.append(key_NGE, value_NGE), bias, inputs, self.scale)
        return self.post_norm(self.out.added(states_ND, attended_NX))

    def encode(self, states_ND: torch.Tensor, mask: torch.Tensor, rows: int) -> torch.Tensor:
        """Attend in both directions, in `rows` padded texts of one length; the mask is `[R, H or 1, S or 1, S]`."""
        all_RS3HE = self.qkv(self.pre_norm(states_ND)).view(rows, -1, 3, self.heads, self.head_dim)
        query, keys, values = all_RS3HE.permute(2, 0, 3, 1, 4)
        attended_RHSE = attention(query, keys, values, mask, self.scale)
        attended_NX = attended_RHSE.transpose(1, 2).reshape(len(states_ND), -1)
        return self.post_norm(self.out.added(states_ND, attended_NX))

    def _project(self, states_ND: torch.Tensor, rotation: Rotation | None) -> tuple[torch.Tensor, ...]:
        """Return queries `[N, H, E]`, keys and values `[N, G, E]`."""
        all_NXE = self.qkv(states_ND).view(len(states_ND), -1, self.head_dim)
        if rotation is None:
            return all_NXE.split((self.heads, self.kv_heads, self.kv_heads), 1)
        both_NXE, value_NGE = all_NXE.split((self.heads + self.kv_heads, self.kv_heads), 1)
        if self.query_norm is not None and self.key_norm is not None:
            query_NHE, key_NGE = both_NXE.split((self.heads, self.kv_heads), 1)
            both_NXE = torch.cat((self.query_norm(query_NHE), self.key_norm(key_NGE)), 1)
        query_NHE, key_NGE = rotated(both_NXE, *rotation).split((self.heads, self.kv_heads), 1)
        return query_NHE, key_NGE, value_NGE


@dataclass(frozen=True)
class CrossAttention:
    """Attention to the source, whose keys and values are in the KV cache already."""

    query: Linear
    out: Linear
    head_dim: int
    scale: float
    pre_norm: Function = identity
    post_norm: Function = identity

    def __call__(
        self, states_ND: torch.Tensor, source: CrossAttentionLayer, bias: AttentionBias, inputs: AttentionInputs
    ) -> torch.Tensor:
        """Attend to each row's source."""
        query_NHE = self.query(self.pre_norm(states_ND)).view(len(states_ND), -1, self.head_dim)
        attended_NX = attend(query_NHE, *source.read(), bias, inputs, self.scale)
        return self.post_norm(self.out.added(states_ND, attended_NX))


@dataclass(frozen=True)
class FeedForward:
    """`out(act(into(x)))`; a gated one has both its inner projections in `into`, and `gated` as its activation."""

    into: Linear
    out: Linear
    act: Function
    pre_norm: Function = identity
    post_norm: Function = identity

    def __call__(self, states_ND: torch.Tensor) -> torch.Tensor:
        """Return the states after this sublayer."""
        return self.post_norm(self.out.added(states_ND, self.act(self.into(self.pre_norm(states_ND)))))


@dataclass(frozen=True)
class Block:
    """One layer of a decoder or an encoder."""

    self_attention: SelfAttention
    feed_forward: FeedForward
    cross_attention: CrossAttention | None = None


@dataclass(frozen=True)
class Gated:
    """The activation of a gated feed-forward, `act(gate) * up`, of both side by side, `[N, 2F]` to `[N, F]`."""

    act: Function

    def __call__(self, inner_NF: torch.Tensor) -> torch.Tensor:
        """Return the gated activations."""
        gate_NF, up_NF = inner_NF.chunk(2, -1)
        return self.act(gate_NF) * up_NF


def rotated(values_NHE: torch.Tensor, cos_N1E: torch.Tensor, sin_N1E: torch.Tensor) -> torch.Tensor:
    """Rotate each pair `(x_i, x_{i + E/2})` by its angle; the first half of the sines comes negated."""
    other_NHE = values_NHE.roll(values_NHE.shape[-1] // 2, -1)
    if values_NHE.dtype != torch.bfloat16:
        return torch.addcmul(values_NHE * cos_N1E, other_NHE, sin_N1E)
    return values_NHE * cos_N1E + other_NHE * sin_N1E
