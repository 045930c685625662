"""What a decoder keeps of a source: the keys and values of its cross-attention, computed once for each row.

The library projects the encoder's states inside a decoder pass, for all rows of the batch or for none. Here a row that
enters is projected alone, so that it can join a batch that is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.distillation.collate import pad_with_mask

CrossKeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each decoder layer, `[R, heads, S, head_dim]`."""
Encoder = Callable[[torch.Tensor, torch.Tensor], CrossKeyValues]
"""Reads sources, ids and what of them is no padding, both `[R, S]`."""


@dataclass(frozen=True)
class CrossProjection:
    """The cross-attention of one decoder layer."""

    key: torch.nn.Module
    value: torch.nn.Module
    head_dim: int

    def __call__(self, states_RSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute keys and values of the encoder's states, each `[R, heads, S, head_dim]`."""
        shape = (*states_RSD.shape[:-1], -1, self.head_dim)
        return self.key(states_RSD).view(shape).transpose(1, 2), self.value(states_RSD).view(shape).transpose(1, 2)


def cross_projections(model: PreTrainedModel) -> list[CrossProjection]:
    """Return the cross-attention of each decoder layer: T5 and its kin, or Marian, BART and theirs."""
    decoder: Any = model.get_decoder()
    if hasattr(decoder, "block"):
        found = [block.layer[1].EncDecAttention for block in decoder.block]
        return [CrossProjection(each.k, each.v, each.key_value_proj_dim) for each in found]
    found = [layer.encoder_attn for layer in decoder.layers]
    return [CrossProjection(each.k_proj, each.v_proj, each.head_dim) for each in found]


class LibraryEncoder:
    """The library's encoder, and the projections of what it says."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.encoder, self.projections = model.get_encoder(), cross_projections(model)

    @torch.no_grad()
    def __call__(self, ids_RS: torch.Tensor, seen_RS: torch.Tensor) -> CrossKeyValues:
        """Read sources, padded on the right."""
        states_RSD = self.encoder(input_ids=ids_RS, attention_mask=seen_RS).last_hidden_state
        return [project(states_RSD) for project in self.projections]


def encode(
    encoder: Encoder, sources: list[list[int]], pad_id: int, limit: int, device: torch.device
) -> Iterator[tuple[list[int], CrossKeyValues]]:
    """Read `sources` in passes of at most `limit` padded tokens; yield indices, and what they project to.

    Sources of like length go together. A source longer than `limit` is read alone: an encoder sees all or nothing.
    """
    for indices in _passes([len(source) for source in sources], limit):
        ids_RS, seen_RS = pad_with_mask([sources[index] for index in indices], pad_id)
        yield indices, encoder(ids_RS.to(device), seen_RS.to(device))


def _passes(lengths: list[int], limit: int) -> Iterator[list[int]]:
    """Yield indices of sources that are read together, the longest first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        rows = max(1, limit // max(1, lengths[order[0]]))
        yield order[:rows]
        order = order[rows:]
