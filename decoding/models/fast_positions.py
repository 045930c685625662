"""How the fast path tells tokens their positions: rotary angles, or T5's biases by distance, from tables that grow."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from wheels.decoding.models.attention import AttentionBias, AttentionInputs, text_bias
from wheels.decoding.models.blocks import Rotation
from wheels.decoding.models.positions import buckets_of

FIRST_TABLE = 256
"""Positions that a table of angles has at first."""


class Rotary:
    """Rotary position embeddings: a table of angles for `wheels.decoding.models.blocks.rotated`.

    Args:
        angles: The library's module, which computes them.
        like_1D: Any state of the model, for dtype and device.
    """

    def __init__(self, angles: Any, like_1D: torch.Tensor) -> None:
        self.angles, self.like_1D = angles, like_1D
        self.table = self._table(FIRST_TABLE)

    def __call__(self, inputs: AttentionInputs) -> Rotation:
        """Return cosine and sine of the new tokens' angles."""
        self.reserve(inputs.visible)
        cos_T1E, sin_T1E = self.table
        return inputs.lookup(cos_T1E), inputs.lookup(sin_T1E)

    def reserve(self, visible: int) -> int:
        """Let the table have `visible` positions at least; return how many it has."""
        if visible > len(self.table[0]):
            self.table = self._table(2 * visible)
        return len(self.table[0])

    def _table(self, length: int) -> Rotation:
        """Compute cosines and sines of the positions below `length`; the first half of the sines is negated."""
        position_1T = torch.arange(length, device=self.like_1D.device)[None]
        cos_1TE, sin_1TE = self.angles(self.like_1D, position_1T)
        sign_E = torch.ones_like(sin_1TE[0, 0])
        sign_E[: len(sign_E) // 2] = -1
        return cos_1TE[0, :, None].contiguous(), (sin_1TE[0, :, None] * sign_E).contiguous()


class DistanceBias:
    """T5's decoder bias: one number for each head and distance from key to query, minus infinity for later keys.

    A ramp holds the biases of distances `T - 1, ..., 0`, and T times minus infinity after them. The bias of a query at
    position i is the ramp from `T - 1 - i` on.

    Args:
        attention: The library's first self-attention, which has the table.
    """

    def __init__(self, attention: Any) -> None:
        limit = int(attention.relative_attention_max_distance)
        distance_T = torch.arange(limit + 1, device=attention.relative_attention_bias.weight.device)
        self.bias_HT = _biases(attention, -distance_T, bidirectional=False)
        self.ramp_HT = self._ramp(FIRST_TABLE)

    def __call__(self, inputs: AttentionInputs, dtype: torch.dtype) -> AttentionBias:
        """Return the bias of the new tokens, `[R, H, K, L]`, or `[1, H, 1, L]` for all where they are aligned."""
        visible, length = inputs.visible, self.reserve(inputs.visible)
        if inputs.aligned:
            return self.ramp_HT[None, :, None, length - visible : length]
        key_L = torch.arange(length - 1, length - 1 + visible, device=inputs.positions_RK.device)
        return text_bias(inputs, self.ramp_HT[:, key_L - inputs.positions_RK[:, :, None]].transpose(0, 1))

    def reserve(self, visible: int) -> int:
        """Let the ramp reach `visible` positions at least; return how many it reaches."""
        if visible > self.ramp_HT.shape[1] // 2:
            self.ramp_HT = self._ramp(2 * visible)
        return self.ramp_HT.shape[1] // 2

    def _ramp(self, length: int) -> torch.Tensor:
        """Return the ramp for positions below `length`."""
        distance_T = torch.arange(length - 1, -1, -1, device=self.bias_HT.device).clamp(max=self.bias_HT.shape[1] - 1)
        return F.pad(self.bias_HT[:, distance_T], (0, length), value=-torch.inf)


class SourceBias:
    """T5's encoder bias: one number for each head and relative position, in both directions.

    Args:
        attention: The library's first self-attention, which has the table.
    """

    def __init__(self, attention: Any) -> None:
        limit = int(attention.relative_attention_max_distance)
        relative_T = torch.arange(-limit, limit + 1, device=attention.relative_attention_bias.weight.device)
        self.bias_HT = _biases(attention, relative_T, bidirectional=True)
        self.table_1HSS = self._table(1)

    def __call__(self, length: int) -> torch.Tensor:
        """Return the bias over sources of one length, `[1, H, S, S]`."""
        if length > self.table_1HSS.shape[-1]:
            self.table_1HSS = self._table(2 * length)
        return self.table_1HSS[..., :length, :length]

    def _table(self, length: int) -> torch.Tensor:
        position_S, limit = torch.arange(length, device=self.bias_HT.device), self.bias_HT.shape[1] // 2
        return self.bias_HT[:, (position_S - position_S[:, None]).clamp(-limit, limit) + limit][None]


def _biases(attention: Any, relative_T: torch.Tensor, *, bidirectional: bool) -> torch.Tensor:
    """Return the biases of relative positions, key minus query, `[H, T]`."""
    bucket_T = buckets_of(attention, relative_T, bidirectional=bidirectional)
    bias_HT: torch.Tensor = attention.relative_attention_bias.weight.detach()[bucket_T].t()
    return bias_HT
