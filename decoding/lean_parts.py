"""What lean forward passes are made of: weights taken out of a model once, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from transformers.activations import NewGELUActivation, SiLUActivation

from wheels.decoding.linear import Linear, linear_of

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


def joined(*parts: torch.nn.Linear) -> Linear:
    """Return linear maps of the same states as one."""
    return linear_of(*(each.weight.detach() for each in parts))


def t5_attention(layer: Any) -> Attention:
    """Take the weights of T5's attention of a text to itself."""
    own = layer.SelfAttention
    return Attention(layer.layer_norm.weight.detach(), joined(own.q, own.k, own.v), joined(own.o))


def t5_feed_forward(layer: Any) -> FeedForward:
    """Take the weights of a T5 layer's feed-forward part."""
    dense = layer.DenseReluDense
    gated = hasattr(dense, "wi_1")
    into = joined(dense.wi_0, dense.wi_1) if gated else joined(dense.wi)
    return FeedForward(layer.layer_norm.weight.detach(), into, joined(dense.wo), activation(dense.act), gated)


def activation(module: torch.nn.Module) -> Activation:
    """Return an activation as one operation, where there is one for it."""
    if isinstance(module, (torch.nn.SiLU, SiLUActivation)):
        return F.silu
    return partial(F.gelu, approximate="tanh") if isinstance(module, NewGELUActivation) else module
