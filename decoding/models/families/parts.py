"""What fast forward passes are made of: weights taken out of a model once, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from transformers.activations import NewGELUActivation, SiLUActivation
from transformers.pytorch_utils import Conv1D

from wheels.decoding.models.linear import Linear, make_linear
from wheels.decoding.models.positions import buckets_of

Activation = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Attention:
    """Self-attention."""

    norm_D: torch.Tensor
    into: Linear
    """To queries, keys and values."""
    out: Linear
    query_norm_E: torch.Tensor | None = None
    key_norm_E: torch.Tensor | None = None


@dataclass(frozen=True)
class FeedForward:
    """Two linear maps, and an activation between them."""

    norm_D: torch.Tensor
    into: Linear
    """To the hidden layer; to its gate and itself, where it has a gate."""
    out: Linear
    act: Activation
    gated: bool

    def add_to(self, states_ND: torch.Tensor, eps: float) -> torch.Tensor:
        """Return the states with what this makes of them added."""
        inner_NF = self.into(normed(states_ND, self.norm_D, eps))
        if self.gated:
            gate_NF, up_NF = inner_NF.chunk(2, -1)
            inner_NF = self.act(gate_NF) * up_NF
        else:
            inner_NF = self.act(inner_NF)
        return self.out.added(states_ND, inner_NF)


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation."""

    weight_D: torch.Tensor
    bias_D: torch.Tensor
    eps: float

    @classmethod
    def of(cls, module: torch.nn.LayerNorm) -> LayerNorm:
        """Take the weights of a module."""
        return cls(module.weight.detach(), module.bias.detach(), module.eps)

    def __call__(self, states_ND: torch.Tensor) -> torch.Tensor:
        """Compute `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last axis."""
        return F.layer_norm(states_ND, self.weight_D.shape, self.weight_D, self.bias_D, self.eps)


def normed(states: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """Compute `x / sqrt(mean(x^2) + eps) * weight` over the last axis."""
    if states.dtype != torch.bfloat16:
        return F.rms_norm(states, weight_D.shape, weight_D, eps)
    # Here and below bfloat16 is rounded where the library rounds it, so that both choose the same tokens.
    exact = states.float()
    return weight_D * (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)).to(states.dtype)


def mask_of(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to scores to allow these alone."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, -torch.inf)


def joined(*parts: Any) -> Linear:
    """Return linear maps of the same states as one; GPT-2 keeps its weights turned."""
    weights_YX = [each.weight.detach().t() if isinstance(each, Conv1D) else each.weight.detach() for each in parts]
    biases_Y = [each.bias for each in parts]
    if all(bias is None for bias in biases_Y):
        return make_linear(_cat(weights_YX))
    pairs = zip(biases_Y, weights_YX, strict=True)
    return make_linear(_cat(weights_YX), _cat([w.new_zeros(len(w)) if b is None else b.detach() for b, w in pairs]))


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return tensors as one; a single one is not copied."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def t5_attention(layer: Any) -> Attention:
    """Take the weights of T5's attention of a text to itself."""
    own = layer.SelfAttention
    return Attention(layer.layer_norm.weight.detach(), joined(own.q, own.k, own.v), joined(own.o))


def t5_feed_forward(layer: Any) -> FeedForward:
    """Take the weights of a T5 layer's feed-forward part."""
    dense = layer.DenseReluDense
    gated = hasattr(dense, "wi_1")
    into = joined(dense.wi_0, dense.wi_1) if gated else joined(dense.wi)
    return FeedForward(
        layer.layer_norm.weight.detach(), into, joined(dense.wo), activation(dense.act, dense.wo.weight.dtype), gated
    )


def t5_biases(attention: Any, relative_T: torch.Tensor, *, bidirectional: bool) -> torch.Tensor:
    """Return what T5's attention adds to scores at relative positions, key minus query, `[H, T]`."""
    bucket_T = buckets_of(attention, relative_T, bidirectional=bidirectional)
    bias_HT: torch.Tensor = attention.relative_attention_bias.weight.detach()[bucket_T].t()
    return bias_HT


def activation(module: torch.nn.Module, dtype: torch.dtype) -> Activation:
    """Return an activation as one operation, where there is one for it that rounds alike."""
    if isinstance(module, (torch.nn.SiLU, SiLUActivation)):
        return F.silu
    if isinstance(module, NewGELUActivation) and dtype != torch.bfloat16:
        return partial(F.gelu, approximate="tanh")
    return module
