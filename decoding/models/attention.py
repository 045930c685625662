"""Attention over a ragged batch: what is added to the attention scores, and the two ways to compute them.

Rows that read different amounts attend in one call for the batch, or in one call per row. The batch pads short rows,
masks short contexts, and gathers keys and values where not all rows take part. A call per row pads and copies nothing.
On an EPYC with two threads, 32 of 64 rows that read 6 tokens on average and 26 at most after 65: 1.8 ms a layer by row
against 3.1 as a batch in float32 with keys of 512 numbers, 1.2 against 1.1 with keys of 128.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from wheels.decoding.models.cache import CacheWrite
from wheels.decoding.models.fixed_shape import attention
from wheels.decoding.models.inputs import AttentionInputs
from wheels.decoding.models.packing import Packing

PER_ROW_LEAST = {torch.float32: 2**16, torch.bfloat16: 2**18}
"""Numbers that a batch must copy or pad, per row and layer, before a call per row is faster; by dtype, for calls with
few tokens are slow in bfloat16. Rows of other dtypes always attend as a batch."""
PADDED = 4
"""A token of padding costs this many times less than a copy of the row's keys and values."""


@dataclass(frozen=True)
class RowView:
    """What the new tokens of one row see, where it attends by itself."""

    row: int
    """Its index in the cache."""
    count: int
    """New tokens."""
    length: int
    """Positions, from 0."""
    mask: torch.Tensor | None
    """Added to the attention scores, `[1, H or 1, count, length]`; None: all positions are seen."""


AttentionBias = torch.Tensor | list[RowView] | None
"""What is added to the attention scores of a batch, `[R, H or 1, K, L]`, None: nothing; or a view for each row."""


def attend_per_row_is_faster(
    write: CacheWrite, packing: Packing | None, size: int, dtype: torch.dtype, source: int = 0
) -> bool:
    """Tell whether a call per row is faster than one for the batch.

    Args:
        write: Where the rows write.
        packing: Of rows that read different amounts.
        size: Numbers in the keys of one position of a layer.
        dtype: Their format.
        source: The length of the longest source; 0 in a causal model.
    """
    if packing is None or dtype not in PER_ROW_LEAST or write.positions_RK.device.type != "cpu":
        return False  # on other devices a call costs more than the copy
    copied = 0 if write.rows_R is None else 1
    visible = (write.visible + source) / 2 if source else write.visible
    return visible * size * (copied + packing.width / PADDED) >= PER_ROW_LEAST[dtype]


def attend(
    query_NHE: torch.Tensor,
    keys_RGLE: torch.Tensor,
    values_RGLE: torch.Tensor,
    bias: AttentionBias,
    inputs: AttentionInputs,
    scale: float,
) -> torch.Tensor:
    """Compute `softmax(scale * q k^T + bias) v` for each new token, `[N, H x E]`.

    Keys and values are those of the rows that take part, or of the whole cache where each row has a view.
    """
    if isinstance(bias, list):
        queries = query_NHE.split([view.count for view in bias])
        pairs = zip(queries, bias, strict=True)
        return torch.cat([_attend_row(query, keys_RGLE, values_RGLE, view, scale) for query, view in pairs])
    if inputs.packing is None:
        return _attend_batch(query_NHE, keys_RGLE, values_RGLE, bias, scale)
    query_RHKE = inputs.packing.unpack(query_NHE.transpose(0, 1)[None])
    attended_RKHE = _attend_padded(query_RHKE, keys_RGLE, values_RGLE, bias, scale)
    return inputs.packing.pack(attended_RKHE).reshape(len(query_NHE), -1)


def _attend_batch(
    query_NHE: torch.Tensor,
    keys_RGLE: torch.Tensor,
    values_RGLE: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attend in rows that read equally many tokens, `[N, H x E]`."""
    (tokens, heads, size), (rows, kv_heads) = query_NHE.shape, keys_RGLE.shape[:2]
    if tokens == rows:
        # One token each: the query heads that share a key take the axis of the tokens, and no key is repeated.
        query = query_NHE.view(rows, kv_heads, heads // kv_heads, size)
        # In bfloat16 on a CPU float32's kernel takes half the time or less, but chooses other tokens than the library.
        return attention(query, keys_RGLE, values_RGLE, mask, scale).reshape(tokens, -1)
    query_RHKE = query_NHE.view(rows, tokens // rows, heads, size).transpose(1, 2)
    return _attend_padded(query_RHKE, keys_RGLE, values_RGLE, mask, scale).reshape(tokens, -1)


def _attend_padded(
    query_RHKE: torch.Tensor,
    keys_RGLE: torch.Tensor,
    values_RGLE: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attend with K tokens of each row, `[R, K, H, E]`; keys and values are repeated for the heads that share them."""
    share = query_RHKE.shape[1] // keys_RGLE.shape[1]
    if share > 1:
        keys_RGLE, values_RGLE = keys_RGLE.repeat_interleave(share, 1), values_RGLE.repeat_interleave(share, 1)
    return attention(query_RHKE, keys_RGLE, values_RGLE, mask, scale).transpose(1, 2)


def _attend_row(
    query_KHE: torch.Tensor, keys_BGLE: torch.Tensor, values_BGLE: torch.Tensor, view: RowView, scale: float
) -> torch.Tensor:
    """Attend in one row, `[K, H x E]`; keys and values are the whole cache's."""
    here = slice(view.row, view.row + 1)
    keys, values = keys_BGLE[here, :, : view.length], values_BGLE[here, :, : view.length]
    return _attend_batch(query_KHE, keys, values, view.mask, scale)


def mask_of(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where attention is allowed, and minus infinity elsewhere."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, -torch.inf)


def causal_mask(inputs: AttentionInputs, dtype: torch.dtype) -> AttentionBias:
    """Let each token see the positions up to its own."""
    if inputs.aligned:
        return None
    key_L = torch.arange(inputs.visible, device=inputs.positions_RK.device)
    return text_bias(inputs, mask_of(key_L <= inputs.positions_RK[:, None, :, None], dtype))


def text_bias(inputs: AttentionInputs, bias_RHKL: torch.Tensor) -> AttentionBias:
    """Return a batch's bias over the texts as it is, or cut into a view for each row."""
    if not inputs.write.per_row:
        return bias_RHKL
    rows = zip(inputs.rows, inputs.counts, inputs.lengths, bias_RHKL.split(1), strict=True)
    return [RowView(row, count, length, own[:, :, :count, :length]) for row, count, length, own in rows]


def source_mask(inputs: AttentionInputs, dtype: torch.dtype) -> AttentionBias:
    """Let each row see its own source, and not the padding after it."""
    if inputs.write.per_row:
        rows = zip(inputs.rows, inputs.counts, inputs.source_lengths, strict=True)
        return [RowView(row, count, length, None) for row, count, length in rows]
    seen_RS = inputs.source_seen()
    return None if seen_RS is None else mask_of(seen_RS[:, None, None], dtype)
