"""Attention of fast passes: where the tokens of a pass stand, what they see of the store, and what they make of it.

Rows that read different amounts can attend together, or one by one. Together is one call: but those that read less
than another are padded to it, those that are shorter are masked, and where they are not all of the store their keys
and values are gathered first. One by one nothing is padded or copied, for as many calls as rows. On an EPYC, two
threads, 32 of 64 rows that read 6 tokens on average and 26 at most behind 65: 1.8 against 3.1 milliseconds a layer in
float32 where keys have 512 numbers; 1.2 against 1.1 where they have 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from wheels.decoding.models.cache import CacheWrite, CrossAttentionLayer, SelfAttentionLayer
from wheels.decoding.models.families.parts import mask_of
from wheels.decoding.models.packing import Packing

PER_ROW_LEAST = {torch.float32: 2**16, torch.bfloat16: 2**18}
"""Numbers that attention together must copy or compute in vain, a row and layer, for a call of its own to pay; by
number format, for in bfloat16 a call with few tokens is slow. In other formats rows attend together."""
PADDED = 4
"""A token of width costs a row this many times less than the copy of its keys and values."""


@dataclass(frozen=True)
class RowInputs:
    """A row that attends by itself."""

    row: int
    """In the store."""
    count: int
    """Tokens that it reads."""
    length: int
    """Positions of its text that the last of them sees."""
    source: int
    """Positions of its source."""


@dataclass(frozen=True)
class AttentionInputs:
    """Where the tokens of one pass stand, and what they see."""

    write: CacheWrite
    """Where they are written; `uniform` is the common position of the rows' first tokens, if they have one."""
    positions_RK: torch.Tensor
    packing: Packing | None = None
    source_RS: torch.Tensor | None = None
    """The positions of the sources that are seen, where not all are."""
    rows: Sequence[RowInputs] | None = None
    """The rows, where they attend one by one; None: together."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the tokens that each of them reads at most."""
        return self.positions_RK.shape[0], self.positions_RK.shape[1]

    @property
    def aligned(self) -> bool:
        """Whether each row reads one token, all at the same position: then all of them see all that is visible."""
        return self.positions_RK.shape[1] == 1 and self.write.uniform is not None

    def flat(self, positions_RK: torch.Tensor) -> torch.Tensor:
        """Return positions in the order of the tokens, `[N]`."""
        return positions_RK.reshape(-1) if self.packing is None else self.packing.pack(positions_RK)[0]


@dataclass(frozen=True)
class RowView:
    """What the tokens of a row that attends by itself see."""

    row: int
    """In the store."""
    count: int
    """Tokens that it reads."""
    length: int
    """Positions, from 0."""
    mask: torch.Tensor | None
    """Added to the scores, `[1, H or 1, count, length]`; None: all of it is seen."""


AttentionBias = torch.Tensor | Sequence[RowView] | None
"""What is added to the scores of all rows, `[R, H or 1, K, L]`, None: nothing; or a view for each row."""


def attend_per_row_is_faster(
    write: CacheWrite, packing: Packing | None, size: int, dtype: torch.dtype, source: int = 0
) -> bool:
    """Tell whether rows had better attend one by one.

    Args:
        write: Where they write.
        packing: Where they read different amounts.
        size: Numbers of a position's keys in a layer.
        dtype: Their format.
        source: Positions of the longest source that they see; 0: there are none.
    """
    if packing is None or dtype not in PER_ROW_LEAST or write.positions_RK.device.type != "cpu":
        return False  # on other devices a call costs more than the numbers
    copied = 0 if write.rows_R is None else 1
    visible = (write.visible + source) / 2 if source else write.visible
    return visible * size * (copied + packing.width / PADDED) >= PER_ROW_LEAST[dtype]


def attend(
    query_NHE: torch.Tensor,
    keys_RGLE: torch.Tensor,
    values_RGLE: torch.Tensor,
    seen: AttentionBias,
    inputs: AttentionInputs,
    scale: float,
) -> torch.Tensor:
    """Attend with each token to what its row sees, `[N, H x E]`; several query heads may share a key's."""
    if isinstance(seen, Sequence):
        queries = query_NHE.split([view.count for view in seen])
        each = [
            _attend_row(query, keys_RGLE, values_RGLE, view, scale) for query, view in zip(queries, seen, strict=True)
        ]
        return torch.cat(each)
    if inputs.packing is None:
        return _attend_batch(query_NHE, keys_RGLE, values_RGLE, seen, scale)
    tokens, heads, _ = query_NHE.shape
    query = inputs.packing.unpack(query_NHE.transpose(0, 1)[None])
    keys_RHLE, values_RHLE = _for_heads(keys_RGLE, heads), _for_heads(values_RGLE, heads)
    found = F.scaled_dot_product_attention(query, keys_RHLE, values_RHLE, seen, scale=scale)
    return inputs.packing.pack(found.transpose(1, 2)).reshape(tokens, -1)


def _attend_batch(
    query_NHE: torch.Tensor,
    keys_RGLE: torch.Tensor,
    values_RGLE: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attend with as many tokens of each row, `[N, H x E]`."""
    (tokens, heads, size), (rows, kept) = query_NHE.shape, keys_RGLE.shape[:2]
    if tokens == rows:
        # The heads that share a key stand behind each other, as tokens would.
        query = query_NHE.view(rows, kept, heads // kept, size)
        # In bfloat16 on a CPU float32's kernel takes half the time or less, but chooses other tokens than the library.
        return F.scaled_dot_product_attention(query, keys_RGLE, values_RGLE, mask, scale=scale).reshape(tokens, -1)
    query = query_NHE.view(rows, tokens // rows, heads, size).transpose(1, 2)
    keys_RHLE, values_RHLE = _for_heads(keys_RGLE, heads), _for_heads(values_RGLE, heads)
    found = F.scaled_dot_product_attention(query, keys_RHLE, values_RHLE, mask, scale=scale)
    return found.transpose(1, 2).reshape(tokens, -1)


def _for_heads(states_RGLE: torch.Tensor, heads: int) -> torch.Tensor:
    """Return keys or values for each query head, `[R, H, L, E]`."""
    kept = states_RGLE.shape[1]
    return states_RGLE if kept == heads else states_RGLE.repeat_interleave(heads // kept, 1)


def _attend_row(
    query_KHE: torch.Tensor, keys_BGCE: torch.Tensor, values_BGCE: torch.Tensor, view: RowView, scale: float
) -> torch.Tensor:
    """Attend with the tokens of one row, `[K, H x E]`; the stores are those of all rows."""
    here = slice(view.row, view.row + 1)
    keys, values = keys_BGCE[here, :, : view.length], values_BGCE[here, :, : view.length]
    return _attend_batch(query_KHE, keys, values, view.mask, scale)


def at_positions(table_TD: torch.Tensor, inputs: AttentionInputs) -> torch.Tensor:
    """Return the rows of a table at the tokens' positions, `[N, D]`; or one row for all, where all stand at one."""
    if inputs.aligned:
        return table_TD[inputs.write.visible - 1 : inputs.write.visible]
    return table_TD[inputs.flat(inputs.positions_RK)]


def causal_mask(inputs: AttentionInputs, dtype: torch.dtype) -> AttentionBias:
    """Return what lets a token see the positions up to its own; None where it sees all that is visible."""
    if inputs.aligned:
        return None
    key_L = torch.arange(inputs.write.visible, device=inputs.positions_RK.device)
    return text_bias(inputs, mask_of(key_L <= inputs.positions_RK[:, None, :, None], dtype))


def text_bias(inputs: AttentionInputs, mask: torch.Tensor) -> AttentionBias:
    """Return what the tokens see of their texts, from what is added to the scores where rows attend together."""
    if inputs.rows is None:
        return mask
    return [
        RowView(each.row, each.count, each.length, own[:, :, : each.count, : each.length])
        for each, own in zip(inputs.rows, mask.split(1), strict=True)
    ]


def source_mask(inputs: AttentionInputs, dtype: torch.dtype) -> AttentionBias:
    """Return what lets a row see the positions of its source; None where they are all that is there."""
    if inputs.rows is not None:
        return [RowView(each.row, each.count, each.source, None) for each in inputs.rows]
    return None if inputs.source_RS is None else mask_of(inputs.source_RS[:, None, None], dtype)


def append(
    store: SelfAttentionLayer, key_NHE: torch.Tensor, value_NHE: torch.Tensor, inputs: AttentionInputs
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write keys and values, and return all that is visible, `[R, H, L, E]`; the whole stores for rows alone."""
    rows, width = inputs.shape if inputs.packing is None else (1, len(key_NHE))
    shape = (rows, width, *key_NHE.shape[1:])
    return store.append(key_NHE.view(shape), value_NHE.view(shape))


def source_states(source: CrossAttentionLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values of the sources."""
    assert source.keys is not None and source.values is not None, "the sources are read before the texts"
    return source.keys, source.values
