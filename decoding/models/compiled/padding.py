"""Heads of a size that the attention operator takes: zeros after each head's queries, keys and values change nothing.

The scores `q k^T` have zeros added to them, and so has each head's output, where the output projection ignores them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from wheels.decoding.models.blocks import SelfAttention
from wheels.decoding.models.compiled.graph import dense
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.linear import Int8Linear, Linear, make_linear

STEP = 8
"""What the size of a head is a multiple of."""


def padded(decoder: FastDecoder) -> FastDecoder:
    """Return the decoder with larger heads in self-attention; itself where they have such a size, or are rotated."""
    if decoder.rotary is not None or decoder.blocks[0].self_attention.head_dim % STEP == 0:
        return decoder
    blocks = [replace(block, self_attention=_padded(block.self_attention)) for block in decoder.blocks]
    return replace(decoder, blocks=blocks)


def _padded(own: SelfAttention) -> SelfAttention:
    size = own.head_dim
    return replace(own, qkv=_wider_out(own.qkv, size), out=_wider_in(own.out, size), head_dim=size + -size % STEP)


def _wider_out(linear: Linear, size: int) -> Linear:
    """Let a linear map give larger heads."""
    if isinstance(linear, Int8Linear):
        bias_Y = None if linear.bias_Y is None else _wider(linear.bias_Y, size)
        return Int8Linear(_wider(linear.weight_XY.t(), size).t(), _wider(linear.scale_Y, size), bias_Y)
    weight_XY, bias_Y = dense(linear)
    return make_linear(_wider(weight_XY.t(), size), None if bias_Y is None else _wider(bias_Y, size))


def _wider_in(linear: Linear, size: int) -> Linear:
    """Let a linear map read larger heads."""
    if isinstance(linear, Int8Linear):
        return replace(linear, weight_XY=_wider(linear.weight_XY, size).t().contiguous().t())
    weight_XY, bias_Y = dense(linear)
    return make_linear(_wider(weight_XY, size).t(), bias_Y)


def _wider(weights: torch.Tensor, size: int) -> torch.Tensor:
    """Add zeros after every `size` of the first axis."""
    by_head = weights.unflatten(0, (-1, size)).movedim(1, -1)
    return F.pad(by_head, (0, -size % STEP)).movedim(-1, 1).flatten(0, 1)
