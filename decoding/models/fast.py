"""The fast path: one decoder loop and one encoder loop over described blocks, in plain tensor operations.

Most of a small model's forward pass in the library is not arithmetic: it calls modules, builds masks and rotary angles
anew, looks up settings. Here the weights are read once, projections of the same states are fused, and positions come
from tables. The sums are the library's, and so is the KV cache; tests hold both paths equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wheels.decoding.models.attention import (
    AttentionBias,
    attend_per_row_is_faster,
    causal_mask,
    mask_of,
    source_mask,
)
from wheels.decoding.models.blocks import Block, Embedding, Function, identity
from wheels.decoding.models.cache import CrossAttentionLayer, RaggedCache
from wheels.decoding.models.fast_positions import Rotary, SourceBias
from wheels.decoding.models.inputs import AttentionInputs, LogitsToKeep
from wheels.decoding.models.linear import Linear
from wheels.decoding.models.sources import CrossKeyValues, cross_projections
from wheels.decoding.models.weights import fused


class SourceProjection:
    """The fused projection of the encoder's output to the keys and values of every decoder layer.

    Args:
        model: The library's encoder-decoder.
    """

    def __init__(self, model: Any) -> None:
        layers: list[Any] = cross_projections(model)
        self.layers, self.head_dim = len(layers), layers[0].head_dim
        self.linear = fused(*(part for each in layers for part in (each.key, each.value)))

    def __call__(self, states_ND: torch.Tensor, rows: int) -> CrossKeyValues:
        """Return each decoder layer's keys and values, `[R, H, S, E]`; the states are of R padded sources."""
        return self.split(self.linear(states_ND), rows)

    def split(self, all_NX: torch.Tensor, rows: int) -> CrossKeyValues:
        """Return the parts of what the fused projection gives for R padded sources."""
        shape = (rows, len(all_NX) // rows, 2 * self.layers, -1, self.head_dim)
        parts = all_NX.view(shape).permute(2, 0, 3, 1, 4).unbind()
        return list(zip(parts[::2], parts[1::2], strict=True))


@dataclass(repr=False)
class FastEncoder:
    """An encoder, and what its decoder attends to."""

    embedding: Embedding
    blocks: list[Block]
    project: SourceProjection
    norm: Function = identity
    """Of the last block's output."""
    bias: SourceBias | None = None

    @torch.no_grad()
    def __call__(self, ids_RS: torch.Tensor, seen_RS: torch.Tensor) -> CrossKeyValues:
        """Read sources, padded on the right; return keys and values of each decoder layer, `[R, H, S, E]`."""
        rows, length = ids_RS.shape
        states_ND = self.embedding(ids_RS.flatten(), lambda table_TD: table_TD[:length].repeat(rows, 1))
        mask = padding_mask(seen_RS, states_ND.dtype)
        if self.bias is not None:
            mask = self.bias(length) + mask
        for block in self.blocks:
            states_ND = block.self_attention.encode(states_ND, mask, rows)
            states_ND = block.feed_forward(states_ND)
        return self.project(self.norm(states_ND), rows)


@dataclass(repr=False)
class FastDecoder:
    """A decoder, and its output head."""

    embedding: Embedding
    blocks: list[Block]
    head: Linear
    norm: Function = identity
    """Of the last block's output."""
    bias: Callable[[AttentionInputs, torch.dtype], AttentionBias] = causal_mask
    """What is added to the attention scores over the text; it masks too."""
    rotary: Rotary | None = None
    encoder: FastEncoder | None = None

    name = "torch"
    kind = "lean"
    """Of its passes, as benchmark records on disk spell it."""
    encoder_kind = "lean-encode"

    def forward(
        self, tokens_RK: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs, keep: LogitsToKeep
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the new tokens; return logits and hidden states where they are kept, `[R, W, V]` and `[R, W, D]`."""
        write, source, first = inputs.write, inputs.source_visible, self.blocks[0].self_attention
        key_size, dtype = first.kv_heads * first.head_dim, self.embedding.token_VD.dtype
        write.per_row = attend_per_row_is_faster(write, inputs.packing, key_size, dtype, source)
        cache.prepare(write, source_visible=source)
        hidden_RWD = keep.select(self(tokens_RK.reshape(-1), cache, inputs).view(*tokens_RK.shape, -1))
        # In two dimensions: in bfloat16 one position in three is multiplied twenty times slower on some processors.
        logits_RWV = self.head(hidden_RWD.flatten(0, 1)).view(*hidden_RWD.shape[:2], -1)
        return logits_RWV, hidden_RWD

    def __call__(self, token_N: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs) -> torch.Tensor:
        """Read the new tokens; return what the output head reads, `[N, D]`."""
        states_ND = self.embedding(token_N, inputs.lookup)
        bias = self.bias(inputs, states_ND.dtype)
        source_bias = None if self.encoder is None else source_mask(inputs, states_ND.dtype)
        rotation = None if self.rotary is None else self.rotary(inputs)
        sources: Sequence[CrossAttentionLayer | None] = cache.cross_layers or [None] * len(self.blocks)
        for block, store, source in zip(self.blocks, cache.self_layers, sources, strict=True):
            states_ND = block.self_attention(states_ND, store, bias, rotation, inputs)
            if block.cross_attention is not None and source is not None:
                states_ND = block.cross_attention(states_ND, source, source_bias, inputs)
            states_ND = block.feed_forward(states_ND)
        return self.norm(states_ND)


def padding_mask(seen_RS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where a source goes on and minus infinity at its padding, `[R, 1, 1, S]`."""
    return mask_of(seen_RS[:, None, None].bool(), dtype)
