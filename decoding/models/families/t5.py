"""T5: pre-norm by root mean square, a bias by distance in place of positions, cross-attention."""

from __future__ import annotations

from typing import Any

from wheels.decoding.models.blocks import (
    Block,
    CrossAttention,
    Embedding,
    FeedForward,
    Function,
    Gated,
    Scaled,
    SelfAttention,
)
from wheels.decoding.models.fast import FastDecoder, FastEncoder, SourceProjection
from wheels.decoding.models.fast_positions import DistanceBias, SourceBias
from wheels.decoding.models.linear import output_head
from wheels.decoding.models.weights import activation, fused, rms_norm, self_attention, table


def read_t5(model: Any) -> FastDecoder:
    """Read the weights of an encoder-decoder."""
    decoder, encoder = model.decoder, model.encoder
    return FastDecoder(
        Embedding(table(decoder.embed_tokens)),
        [
            Block(_self_attention(own), _feed_forward(ff), _cross_attention(cross))
            for own, cross, ff in _layers(decoder)
        ],
        output_head(table(model.lm_head)),
        norm=_final_norm(model),
        bias=DistanceBias(decoder.block[0].layer[0].SelfAttention),
        encoder=FastEncoder(
            Embedding(table(encoder.embed_tokens)),
            [Block(_self_attention(own), _feed_forward(ff)) for own, ff in _layers(encoder)],
            SourceProjection(model),
            norm=rms_norm(encoder.final_layer_norm),
            bias=SourceBias(encoder.block[0].layer[0].SelfAttention),
        ),
    )


def _layers(stack: Any) -> list[Any]:
    return [block.layer for block in stack.block]


def _self_attention(layer: Any) -> SelfAttention:
    own, norm = layer.SelfAttention, rms_norm(layer.layer_norm)
    return self_attention(own.q, own.k, own.v, own.o, own.key_value_proj_dim, own.scaling, pre_norm=norm)


def _cross_attention(layer: Any) -> CrossAttention:
    own, norm = layer.EncDecAttention, rms_norm(layer.layer_norm)
    return CrossAttention(fused(own.q), fused(own.o), own.key_value_proj_dim, float(own.scaling), pre_norm=norm)


def _feed_forward(layer: Any) -> FeedForward:
    own, norm = layer.DenseReluDense, rms_norm(layer.layer_norm)
    act = activation(own.act, own.wo.weight.dtype)
    if hasattr(own, "wi_1"):
        return FeedForward(fused(own.wi_0, own.wi_1), fused(own.wo), Gated(act), pre_norm=norm)
    return FeedForward(fused(own.wi), fused(own.wo), act, pre_norm=norm)


def _final_norm(model: Any) -> Function:
    """Return the decoder's last norm; T5 scales what its head reads where head and embedding are tied, mT5 never."""
    norm = rms_norm(model.decoder.final_layer_norm)
    return Scaled(norm, model.model_dim**-0.5) if getattr(model.config, "scale_decoder_outputs", False) else norm
