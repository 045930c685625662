"""Packing: a ragged batch without padding, its rows' tokens one after another on a single axis.

Nearly all of a model works on each token alone. Only attention needs the rows apart: its queries are unpacked, and its
output is packed again. So a row that reads 20 tokens beside seven that read 3 costs 41 tokens, not 160.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "wheels_packed"
"""The name under which transformers finds the attention of packed passes."""


@dataclass(frozen=True)
class Packing:
    """Where each of N packed tokens belongs."""

    row_N: torch.Tensor
    """Its row's index in the pass."""
    column_N: torch.Tensor
    """Its index among what the row reads."""
    start_R: torch.Tensor
    """Each row's first packed token."""
    rows: int
    width: int
    """The most tokens that a row reads."""

    @classmethod
    def of(cls, counts: list[int], device: torch.device) -> Packing:
        """Return the packing of rows that read `counts` tokens."""
        count_R = torch.tensor(counts, device=device)
        start_R = count_R.cumsum(0) - count_R
        row_N = torch.arange(len(counts), device=device).repeat_interleave(count_R)
        return cls(row_N, torch.arange(len(row_N), device=device) - start_R[row_N], start_R, len(counts), max(counts))

    def pack(self, values_RW: torch.Tensor) -> torch.Tensor:
        """Pack padded rows, `[R, W, ...]` to `[1, N, ...]`."""
        return values_RW[self.row_N, self.column_N][None]

    def unpack(self, values_1HND: torch.Tensor) -> torch.Tensor:
        """Unpack into rows padded with zeros, `[1, H, N, D]` to `[R, H, W, D]`."""
        _, heads, _, width = values_1HND.shape
        unpacked_RWHE = values_1HND.new_zeros(self.rows, self.width, heads, width)
        unpacked_RWHE[self.row_N, self.column_N] = values_1HND[0].transpose(0, 1)
        return unpacked_RWHE.transpose(1, 2)


_active: ContextVar[Packing] = ContextVar("packing")


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with packed queries, `[1, H, N, D]`, to keys and values by row; transformers' attention interface."""
    packing = _active.get()
    if position_bias is not None:
        # Where a layer has no bias of its own, T5 adds zeros as long as the packed axis.
        position_bias = position_bias[:, :, : packing.width]
    attended, _ = sdpa_attention_forward(
        module, packing.unpack(query), key, value, attention_mask, position_bias=position_bias, **kwargs
    )
    return packing.pack(attended), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)


def has_attention_interface(model: PreTrainedModel) -> bool:
    """Tell whether a model's attention is one of transformers' functions, which can be replaced for a packed pass."""
    return "ALL_ATTENTION_FUNCTIONS" in vars(sys.modules[type(model).__module__])


def configs_of(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Return the configurations that the attention layers of a model's decoder ask for their implementation."""
    decoder = model.get_decoder() if model.config.is_encoder_decoder else model
    found = (getattr(module, "config", None) for module in decoder.modules())
    return list({id(config): config for config in found if isinstance(config, PreTrainedConfig)}.values())


@contextmanager
def packed_attention(configs: list[PreTrainedConfig], packing: Packing) -> Iterator[None]:
    """Let the attention layers of one forward pass read packed tokens."""
    before = [config._attn_implementation for config in configs]
    token = _active.set(packing)
    try:
        for config in configs:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
        _active.reset(token)
