"""Reading a model's weights for the fast path: views of its tensors, fused projections, norms, activations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from transformers.activations import NewGELUActivation, SiLUActivation
from transformers.pytorch_utils import Conv1D

from wheels.decoding.models.blocks import Function, LayerNorm, RMSNorm, SelfAttention
from wheels.decoding.models.linear import Linear, make_linear


def table(module: Any) -> torch.Tensor:
    """Return an embedding's table, not copied."""
    weight_VD: torch.Tensor = module.weight.detach()
    return weight_VD


def self_attention(
    query: Any, key: Any, value: Any, out: Any, head_dim: int, scale: float, **norms: Function
) -> SelfAttention:
    """Read self-attention from its four projections."""
    heads, kv_heads = query.out_features // head_dim, key.out_features // head_dim
    return SelfAttention(fused(query, key, value), fused(out), heads, kv_heads, head_dim, float(scale), **norms)


def fused(*parts: Any) -> Linear:
    """Return linear maps of the same states as one, their outputs side by side; GPT-2 keeps its weights transposed."""
    weights_YX = [each.weight.detach().t() if isinstance(each, Conv1D) else each.weight.detach() for each in parts]
    biases_Y = [each.bias for each in parts]
    if all(bias is None for bias in biases_Y):
        return make_linear(_cat(weights_YX))
    pairs = zip(biases_Y, weights_YX, strict=True)
    return make_linear(_cat(weights_YX), _cat([w.new_zeros(len(w)) if b is None else b.detach() for b, w in pairs]))


def _cat(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return tensors as one; a single one is not copied."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def rms_norm(module: Any) -> RMSNorm:
    """Read a root-mean-square norm of Llama's, Qwen's or T5's."""
    return RMSNorm(module.weight.detach(), float(module.variance_epsilon))


def layer_norm(module: torch.nn.LayerNorm) -> LayerNorm:
    """Read a layer norm."""
    return LayerNorm(module.weight.detach(), module.bias.detach(), module.eps)


def activation(module: torch.nn.Module, dtype: torch.dtype) -> Function:
    """Return an activation as one operation, where there is one that rounds as the library's does."""
    if isinstance(module, (torch.nn.SiLU, SiLUActivation)):
        return F.silu
    if isinstance(module, NewGELUActivation) and dtype != torch.bfloat16:
        return partial(F.gelu, approximate="tanh")
    return module
