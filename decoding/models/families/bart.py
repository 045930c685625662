"""BART and Marian: post-norm by layer norm, positions in an embedding, biases everywhere, cross-attention."""

from __future__ import annotations

from typing import Any

from wheels.decoding.models.blocks import Block, CrossAttention, Embedding, FeedForward, SelfAttention, identity
from wheels.decoding.models.fast import FastDecoder, FastEncoder, SourceProjection
from wheels.decoding.models.linear import Linear, output_head
from wheels.decoding.models.weights import activation, fused, layer_norm, self_attention, table


def read_bart(model: Any) -> FastDecoder:
    """Read the weights of an encoder-decoder."""
    decoder, encoder = model.model.decoder, model.model.encoder
    return FastDecoder(
        _embedding(decoder),
        [Block(_self_attention(layer), _feed_forward(layer), _cross_attention(layer)) for layer in decoder.layers],
        _head(model),
        encoder=FastEncoder(
            _embedding(encoder),
            [Block(_self_attention(layer), _feed_forward(layer)) for layer in encoder.layers],
            SourceProjection(model),
        ),
    )


def _embedding(stack: Any) -> Embedding:
    # Marian scales what its table returns, and BART's table scales by itself.
    scale = getattr(stack if hasattr(stack, "embed_scale") else stack.embed_tokens, "embed_scale", 1.0)
    first = getattr(stack.embed_positions, "offset", 0)
    norm = layer_norm(stack.layernorm_embedding) if hasattr(stack, "layernorm_embedding") else identity
    return Embedding(table(stack.embed_tokens), table(stack.embed_positions)[first:], float(scale), norm)


def _head(model: Any) -> Linear:
    bias_V = model.final_logits_bias[0]
    if model.lm_head.bias is not None:
        bias_V = bias_V + model.lm_head.bias.detach()
    return output_head(table(model.lm_head), bias_V)


def _self_attention(layer: Any) -> SelfAttention:
    own, norm = layer.self_attn, layer_norm(layer.self_attn_layer_norm)
    return self_attention(own.q_proj, own.k_proj, own.v_proj, own.out_proj, own.head_dim, own.scaling, post_norm=norm)


def _cross_attention(layer: Any) -> CrossAttention:
    own, norm = layer.encoder_attn, layer_norm(layer.encoder_attn_layer_norm)
    return CrossAttention(fused(own.q_proj), fused(own.out_proj), own.head_dim, float(own.scaling), post_norm=norm)


def _feed_forward(layer: Any) -> FeedForward:
    act = activation(layer.activation_fn, layer.fc1.weight.dtype)
    return FeedForward(fused(layer.fc1), fused(layer.fc2), act, post_norm=layer_norm(layer.final_layer_norm))
