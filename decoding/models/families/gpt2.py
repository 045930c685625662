"""A fast forward pass of GPT-2: learned positions, layer normalisation before each part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from wheels.decoding.models.attention import AttentionInputs, append, at_positions, attend, causal_mask
from wheels.decoding.models.cache import RaggedCache
from wheels.decoding.models.families.parts import LayerNorm, activation, joined
from wheels.decoding.models.linear import Linear
from wheels.decoding.models.sources import Encoder


@dataclass(frozen=True)
class Part:
    """Attention, or a feed-forward part."""

    norm: LayerNorm
    into: Linear
    """To queries, keys and values; or to the hidden layer."""
    out: Linear
    scale: float = 1.0
    """Of the scores of attention."""


class FastGPT2:
    """GPT-2."""

    encoder: Encoder | None = None

    def __init__(self, model: Any) -> None:
        body = model.transformer
        first = body.h[0]
        self.heads, self.head_dim = int(first.attn.num_heads), int(first.attn.head_dim)
        self.key_size = self.heads * self.head_dim
        self.act = activation(first.mlp.act, model.dtype)
        self.token_VD, self.position_TD = body.wte.weight.detach(), body.wpe.weight.detach()
        self.layers = [_layer(block) for block in body.h]
        self.final_norm = LayerNorm.of(body.ln_f)
        self.head = joined(model.lm_head)

    def __call__(self, token_N: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs) -> torch.Tensor:
        """Read tokens, and return what the output head reads of them, `[N, D]`."""
        states_ND = F.embedding(token_N, self.token_VD) + at_positions(self.position_TD, inputs)
        mask = causal_mask(inputs, states_ND.dtype)
        for (own, feed_forward), store in zip(self.layers, cache.self_layers, strict=True):
            all_NX = own.into(own.norm(states_ND)).view(len(states_ND), -1, self.head_dim)
            query_NHE, key_NHE, value_NHE = all_NX.split(self.heads, 1)
            seen_NX = attend(query_NHE, *append(store, key_NHE, value_NHE, inputs), mask, inputs, own.scale)
            states_ND = own.out.added(states_ND, seen_NX)
            inner_NF = self.act(feed_forward.into(feed_forward.norm(states_ND)))
            states_ND = feed_forward.out.added(states_ND, inner_NF)
        return self.final_norm(states_ND)


def _layer(block: Any) -> tuple[Part, Part]:
    """Take the weights of a layer."""
    own, dense = block.attn, block.mlp
    return (
        Part(LayerNorm.of(block.ln_1), joined(own.c_attn), joined(own.c_proj), float(own.scaling)),
        Part(LayerNorm.of(block.ln_2), joined(dense.c_fc), joined(dense.c_proj)),
    )
