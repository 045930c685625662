"""Passes without padding, for rows that read different amounts: their tokens stand behind each other in one line.

Nearly all of a model works on tokens one by one, and does not care whose they are. Attention alone keeps the rows
apart: for it the line is spread out over rows, and put together again behind it. So a row that reads 20 tokens beside
seven that read 3 costs 41 tokens, and not 160.
"""

from __future__ import annotations

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
    """Where each of N tokens in a line belongs."""

    row_N: torch.Tensor
    """Its row, by its place in the pass."""
    column_N: torch.Tensor
    """Its place among what the row reads."""
    start_R: torch.Tensor
    """Where each row begins in the line."""
    rows: int
    width: int
    """The most that a row reads."""

    @classmethod
    def of(cls, counts: list[int], device: torch.device) -> Packing:
        """Return the packing of rows that read `counts` tokens."""
        count_R = torch.tensor(counts, device=device)
        start_R = count_R.cumsum(0) - count_R
        row_N = torch.arange(len(counts), device=device).repeat_interleave(count_R)
        return cls(row_N, torch.arange(len(row_N), device=device) - start_R[row_N], start_R, len(counts), max(counts))

    def pack(self, values_RW: torch.Tensor) -> torch.Tensor:
        """Put what stands by row and column into a line, `[R, W, ...]` to `[1, N, ...]`."""
        return values_RW[self.row_N, self.column_N][None]

    def unpack(self, values_1HND: torch.Tensor) -> torch.Tensor:
        """Spread a line out over the rows, `[1, H, N, D]` to `[R, H, W, D]`; zeros where a row reads less."""
        _, heads, _, width = values_1HND.shape
        spread_RWHD = values_1HND.new_zeros(self.rows, self.width, heads, width)
        spread_RWHD[self.row_N, self.column_N] = values_1HND[0].transpose(0, 1)
        return spread_RWHD.transpose(1, 2)


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
    """Attend with queries in a line, `[1, H, N, D]`, to keys and values by row; transformers' attention interface."""
    packing = _active.get()
    if position_bias is not None:
        # T5 adds zeros as long as the line where a layer has no bias of its own.
        position_bias = position_bias[:, :, : packing.width]
    spread, _ = sdpa_attention_forward(
        module, packing.unpack(query), key, value, attention_mask, position_bias=position_bias, **kwargs
    )
    return packing.pack(spread), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)


def configs_of(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Return the configurations that the attention layers of a model's decoder ask for their implementation."""
    decoder = model.get_decoder() if model.config.is_encoder_decoder else model
    found = (getattr(module, "config", None) for module in decoder.modules())
    return list({id(config): config for config in found if isinstance(config, PreTrainedConfig)}.values())


@contextmanager
def packed_attention(configs: list[PreTrainedConfig], packing: Packing) -> Iterator[None]:
    """Let the attention layers of one forward pass read a line of tokens."""
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
