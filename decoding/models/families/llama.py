"""Llama, Qwen 2 and Qwen 3: pre-norm by root mean square, rotary positions, gated feed-forward."""

from __future__ import annotations

from typing import Any

from wheels.decoding.models.blocks import Block, Embedding, FeedForward, Gated, SelfAttention
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.fast_positions import Rotary
from wheels.decoding.models.linear import output_head
from wheels.decoding.models.weights import activation, fused, rms_norm, self_attention, table


def read_llama(model: Any) -> FastDecoder:
    """Read the weights of a causal model."""
    body, token_VD = model.model, table(model.model.embed_tokens)
    return FastDecoder(
        Embedding(token_VD),
        [Block(_self_attention(layer), _feed_forward(layer)) for layer in body.layers],
        output_head(table(model.lm_head)),
        norm=rms_norm(body.norm),
        rotary=Rotary(body.rotary_emb, token_VD[:1]),
    )


def _self_attention(layer: Any) -> SelfAttention:
    own, norms = layer.self_attn, {}
    if hasattr(own, "q_norm"):  # Qwen 3
        norms = {"query_norm": rms_norm(own.q_norm), "key_norm": rms_norm(own.k_norm)}
    norms["pre_norm"] = rms_norm(layer.input_layernorm)
    return self_attention(own.q_proj, own.k_proj, own.v_proj, own.o_proj, own.head_dim, own.scaling, **norms)


def _feed_forward(layer: Any) -> FeedForward:
    own = layer.mlp
    act = activation(own.act_fn, own.down_proj.weight.dtype)
    into = fused(own.gate_proj, own.up_proj)
    return FeedForward(into, fused(own.down_proj), Gated(act), pre_norm=rms_norm(layer.post_attention_layernorm))
