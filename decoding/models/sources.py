"""Encoding sources: the keys and values that the decoder's cross-attention reads, computed once for each source.

The library projects the encoder's output inside a decoder pass, for all rows or for none. Here a new row is projected
by itself, so that it can join a running batch: continuous batching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from wheels.decoding.models.fixed_shape import KEYS
from wheels.distillation.collate import pad_with_mask

CrossKeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each decoder layer, `[R, heads, S, head_dim]`."""
Encoder = Callable[[torch.Tensor, torch.Tensor], CrossKeyValues]
"""Reads sources: their ids, and 1 where there is no padding, both `[R, S]`."""


@dataclass(frozen=True)
class CrossProjection:
    """The key and value projections of one decoder layer's cross-attention."""

    key: torch.nn.Module
    value: torch.nn.Module
    head_dim: int

    def __call__(self, states_RSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute keys and values of the encoder's output, each `[R, heads, S, head_dim]`."""
        shape = (*states_RSD.shape[:-1], -1, self.head_dim)
        return self.key(states_RSD).view(shape).transpose(1, 2), self.value(states_RSD).view(shape).transpose(1, 2)


def cross_projections(model: PreTrainedModel) -> list[CrossProjection]:
    """Return the projections of each decoder layer, of T5, T5Gemma, or Marian, BART and relatives."""
    decoder: Any = model.get_decoder()
    if hasattr(decoder, "block"):
        found = [block.layer[1].EncDecAttention for block in decoder.block]
        return [CrossProjection(each.k, each.v, each.key_value_proj_dim) for each in found]
    found = [getattr(layer, "cross_attn", None) or layer.encoder_attn for layer in decoder.layers]
    return [CrossProjection(each.k_proj, each.v_proj, each.head_dim) for each in found]


class LibraryEncoder:
    """The library's encoder, and the projections of its output."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.encoder, self.projections = model.get_encoder(), cross_projections(model)

    @torch.no_grad()
    def __call__(self, ids_RS: torch.Tensor, seen_RS: torch.Tensor) -> CrossKeyValues:
        """Read sources, padded on the right."""
        if self.encoder.dtype == torch.bfloat16:  # its attention is the library's
            ids_RS, seen_RS = (F.pad(each, (0, -each.shape[1] % KEYS)) for each in (ids_RS, seen_RS))
        states_RSD = self.encoder(input_ids=ids_RS, attention_mask=seen_RS).last_hidden_state
        return [project(states_RSD) for project in self.projections]


def encode(
    encoder: Encoder, sources: list[list[int]], pad_id: int, limit: int, device: torch.device
) -> Iterator[tuple[list[int], CrossKeyValues]]:
    """Encode `sources` in passes of at most `limit` padded tokens; yield indices, keys and values.

    Sources of similar length share a pass. One longer than `limit` is read in a pass of its own, for an encoder cannot
    read in chunks.
    """
    for indices in _passes([len(source) for source in sources], limit):
        ids_RS, seen_RS = pad_with_mask([sources[index] for index in indices], pad_id)
        yield indices, encoder(ids_RS.to(device), seen_RS.to(device))


def _passes(lengths: list[int], limit: int) -> Iterator[list[int]]:
    """Yield indices of sources that share a pass, the longest first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        rows = max(1, limit // max(1, lengths[order[0]]))
        yield order[:rows]
        order = order[rows:]
