"""GPT-2: pre-norm by layer norm, learned positions, plain feed-forward."""

from __future__ import annotations

from typing import Any

from wheels.decoding.models.blocks import Block, Embedding, FeedForward, SelfAttention
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.linear import output_head
from wheels.decoding.models.weights import activation, fused, layer_norm, table


def read_gpt2(model: Any) -> FastDecoder:
    """Read the weights of a causal model."""
    body = model.transformer
    return FastDecoder(
        Embedding(table(body.wte), table(body.wpe)),
        [Block(_self_attention(layer), _feed_forward(layer)) for layer in body.h],
        output_head(table(model.lm_head)),
        norm=layer_norm(body.ln_f),
    )


def _self_attention(layer: Any) -> SelfAttention:
    own = layer.attn
    return SelfAttention(
        fused(own.c_attn),
        fused(own.c_proj),
        heads=own.num_heads,
        kv_heads=own.num_heads,
        head_dim=own.head_dim,
        scale=float(own.scaling),
        pre_norm=layer_norm(layer.ln_1),
    )


def _feed_forward(layer: Any) -> FeedForward:
    own = layer.mlp
    act = activation(own.act, own.c_fc.weight.dtype)
    return FeedForward(fused(own.c_fc), fused(own.c_proj), act, pre_norm=layer_norm(layer.ln_2))
