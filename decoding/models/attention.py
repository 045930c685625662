"""Attention of lean passes: where the tokens of a pass stand, what they see of the store, and what they make of it.

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

from wheels.decoding.models.cache import CrossAttentionLayer, SelfAttentionLayer, Write
from wheels.decoding.models.families.parts import mask_of
from wheels.decoding.models.packing import Packing

ALONE = {torch.float32: 2**16, torch.bfloat16: 2**18}
"""Numbers that attention together must copy or compute in vain, a row and layer, for a call of its own to pay; by
number format, for in bfloat16 a call with few tokens is slow. In other formats rows attend together."""
PADDED = 4
"""A token of width costs a row this many times less than the copy of its keys and values."""


@dataclass(frozen=True)
class Alone:
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
class Sight:
    """Where the tokens of one pass stand, and what they see."""

    write: Write
    """Where they are written; `uniform` is the common position of the rows' first tokens, if they have one."""
    position_RK: torch.Tensor
    packing: Packing | None = None
    source_RS: torch.Tensor | None = None
    """The positions of the sources that are seen, where not all are."""
    alone: Sequence[Alone] | None = None
    """The rows, where they attend one by one; None: together."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the tokens that each of them reads at most."""
        return self.position_RK.shape[0], self.position_RK.shape[1]

    @property
    def alike(self) -> bool:
        """Whether each row reads one token, all at the same position: then all of them see all that is visible."""
        return self.position_RK.shape[1] == 1 and self.write.uniform is not None

    def line(self, position_RK: torch.Tensor) -> torch.Tensor:
        """Return positions in the order of the tokens, `[N]`."""
        return position_RK.reshape(-1) if self.packing is None else self.packing.packed(position_RK)[0]


@dataclass(frozen=True)
class View:
    """What the tokens of a row that attends by itself see."""

    row: int
    """In the store."""
    count: int
    """Tokens that it reads."""
    length: int
    """Positions, from 0."""
    mask: torch.Tensor | None
    """Added to the scores, `[1, H or 1, count, length]`; None: all of it is seen."""


Seen = torch.Tensor | Sequence[View] | None
"""What is added to the scores of all rows, `[R, H or 1, K, L]`, None: nothing; or a view for each row."""


def pays_alone(write: Write, packing: Packing | None, size: int, dtype: torch.dtype, source: int = 0) -> bool:
    """Tell whether rows had better attend one by one.

    Args:
        write: Where they write.
        packing: Where they read different amounts.
        size: Numbers of a position's keys in a layer.
        dtype: Their format.
        source: Positions of the longest source that they see; 0: there are none.
    """
    if packing is None or dtype not in ALONE or write.slots_RK.device.type != "cpu":
        return False  # on other devices a call costs more than the numbers
    copied = 0 if write.rows_R is None else 1
    visible = (write.visible + source) / 2 if source else write.visible
    return visible * size * (copied + packing.width / PADDED) >= ALONE[dtype]


def attend(
    query_NHE: torch.Tensor,
    keys_RGLE: torch.Tensor,
    values_RGLE: torch.Tensor,
    seen: Seen,
    sight: Sight,
    scale: float,
) -> torch.Tensor:
    """Attend with each token to what its row sees, `[N, H x E]`; several query heads may share a key's."""
    if isinstance(seen, Sequence):
        queries = query_NHE.split([view.count for view in seen])
        each = [
            _attend_alone(query, keys_RGLE, values_RGLE, view, scale) for query, view in zip(queries, seen, strict=True)
        ]
        return torch.cat(each)
    if sight.packing is None:
        return _attend_together(query_NHE, keys_RGLE, values_RGLE, seen, scale)
    tokens, heads, _ = query_NHE.shape
    query = sight.packing.spread(query_NHE.transpose(0, 1)[None])
    keys_RHLE, values_RHLE = _for_heads(keys_RGLE, heads), _for_heads(values_RGLE, heads)
    found = F.scaled_dot_product_attention(query, keys_RHLE, values_RHLE, seen, scale=scale)
    return sight.packing.packed(found.transpose(1, 2)).reshape(tokens, -1)


def _attend_together(
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


def _attend_alone(
    query_KHE: torch.Tensor, keys_BGCE: torch.Tensor, values_BGCE: torch.Tensor, view: View, scale: float
) -> torch.Tensor:
    """Attend with the tokens of one row, `[K, H x E]`; the stores are those of all rows."""
    here = slice(view.row, view.row + 1)
    keys, values = keys_BGCE[here, :, : view.length], values_BGCE[here, :, : view.length]
    return _attend_together(query_KHE, keys, values, view.mask, scale)


def at_positions(table_TD: torch.Tensor, sight: Sight) -> torch.Tensor:
    """Return the rows of a table at the tokens' positions, `[N, D]`; or one row for all, where all stand at one."""
    if sight.alike:
        return table_TD[sight.write.visible - 1 : sight.write.visible]
    return table_TD[sight.line(sight.position_RK)]


def causal_mask(sight: Sight, dtype: torch.dtype) -> Seen:
    """Return what lets a token see the positions up to its own; None where it sees all that is visible."""
    if sight.alike:
        return None
    key_L = torch.arange(sight.write.visible, device=sight.position_RK.device)
    return seen_of_text(sight, mask_of(key_L <= sight.position_RK[:, None, :, None], dtype))


def seen_of_text(sight: Sight, mask: torch.Tensor) -> Seen:
    """Return what the tokens see of their texts, from what is added to the scores where rows attend together."""
    if sight.alone is None:
        return mask
    return [
        View(each.row, each.count, each.length, own[:, :, : each.count, : each.length])
        for each, own in zip(sight.alone, mask.split(1), strict=True)
    ]


def source_mask(sight: Sight, dtype: torch.dtype) -> Seen:
    """Return what lets a row see the positions of its source; None where they are all that is there."""
    if sight.alone is not None:
        return [View(each.row, each.count, each.source, None) for each in sight.alone]
    return None if sight.source_RS is None else mask_of(sight.source_RS[:, None, None], dtype)


def put(
    store: SelfAttentionLayer, key_NHE: torch.Tensor, value_NHE: torch.Tensor, sight: Sight
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write keys and values, and return all that is visible, `[R, H, L, E]`; the whole stores for rows alone."""
    rows, width = sight.shape if sight.packing is None else (1, len(key_NHE))
    shape = (rows, width, *key_NHE.shape[1:])
    return store.put(key_NHE.view(shape), value_NHE.view(shape))


def of_source(source: CrossAttentionLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values of the sources."""
    assert source.keys is not None and source.values is not None, "the sources are read before the texts"
    return source.keys, source.values
