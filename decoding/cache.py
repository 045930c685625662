"""A key-value cache whose rows stand at different lengths: preallocated, written at each row's own cursor.

A row is rewound by moving its cursor: whatever lies at or beyond the cursor is invisible (the mask hides it) and is
overwritten by the next write. Nothing is concatenated at a step; the store grows in blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache

BLOCK = 64
"""Positions by which a store grows at least."""


@dataclass
class Write:
    """Where one forward pass writes, and how far it reads."""

    rows_R: torch.Tensor | None
    """The rows that take part; None: all of them, in order."""
    slots_RK: torch.Tensor
    """The slot of each new position; `[1, N]` where the new positions of all rows stand in a line."""
    owner_N: torch.Tensor | None
    """The row that each position of a line belongs to; None where every row has positions of its own."""
    uniform: int | None
    """The common cursor, where all rows stand at one: then a plain slice is written."""
    visible: int
    """Slots that are read, from 0: the furthest cursor after this write."""


class SelfAttentionLayer(CacheLayerMixin):
    """Self-attention keys and values of all rows in one layer, `[rows, capacity, heads, head_dim]`.

    What belongs to one position lies together, so that a token is written, and a row is read, in one piece. The model
    is shown a view, `[rows, heads, positions, head_dim]`.
    """

    is_croppable = False
    is_sliding = False

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.write: Write | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make empty stores of the right shape."""
        self.keys, self.values = _empty(self.rows, key_states), _empty(self.rows, value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new positions and return all that is visible, for the rows that take part."""
        return self.put(key_states.transpose(1, 2), value_states.transpose(1, 2))

    def put(self, keys_RKHD: torch.Tensor, values_RKHD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new positions, and return all that is visible, `[R, H, visible, D]`."""
        if not self.is_initialized:
            self.lazy_initialization(keys_RKHD.transpose(1, 2), values_RKHD.transpose(1, 2))
        write = self.write
        assert write is not None and self.keys is not None and self.values is not None
        self.keys, self.values = _grown(self.keys, write.visible), _grown(self.values, write.visible)
        return _written(self.keys, keys_RKHD, write), _written(self.values, values_RKHD, write)

    def get_seq_length(self) -> int:
        """The cursors are the runner's: for the model itself the cache always looks empty."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Sizes for masks that the model would build; ours are ready-made."""
        return (self.write.visible if self.write else query_length), 0

    def get_max_length(self) -> int:
        """No limit of its own."""
        return -1


class CrossAttentionLayer(SelfAttentionLayer):
    """Keys and values over the source of all rows in one layer: filled once for a row, then only read."""

    def __init__(self, rows: int) -> None:
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None
        super().__init__(rows)

    def fill(self, rows_R: torch.Tensor, keys_RHSD: torch.Tensor, values_RHSD: torch.Tensor) -> None:
        """Keep what the sources of `rows_R` project to."""
        if self._keys is None or self._values is None:
            self._keys, self._values = _empty(self.rows, keys_RHSD), _empty(self.rows, values_RHSD)
            self.is_initialized = True
        length = keys_RHSD.shape[2]
        self._keys, self._values = _grown(self._keys, length), _grown(self._values, length)
        self._keys[rows_R, :length] = keys_RHSD.transpose(1, 2)
        self._values[rows_R, :length] = values_RHSD.transpose(1, 2)

    @property
    def keys(self) -> torch.Tensor | None:
        """The stored keys of the rows that take part."""
        return self._read(self._keys)

    @keys.setter
    def keys(self, value: torch.Tensor | None) -> None:
        self._keys = value

    @property
    def values(self) -> torch.Tensor | None:
        """The stored values of the rows that take part."""
        return self._read(self._values)

    @values.setter
    def values(self, value: torch.Tensor | None) -> None:
        self._values = value

    def _read(self, store: torch.Tensor | None) -> torch.Tensor | None:
        if store is None or self.write is None:
            return store
        return _shown(store, self.write)


class RaggedCache:
    """The caches of one model for `rows` rows: self-attention, and cross-attention where there is an encoder."""

    def __init__(self, layers: int, rows: int, *, cross: bool) -> None:
        self.self_layers = [SelfAttentionLayer(rows) for _ in range(layers)]
        self.cross_layers = [CrossAttentionLayer(rows) for _ in range(layers)] if cross else []
        self_cache = Cache(layers=list(self.self_layers))
        self.cache: Cache = (
            EncoderDecoderCache(self_cache, Cache(layers=list(self.cross_layers))) if cross else self_cache
        )

    def fill(self, rows_R: torch.Tensor, projections: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Keep the sources of `rows_R`: keys and values of each layer."""
        for layer, (keys_RHSD, values_RHSD) in zip(self.cross_layers, projections, strict=True):
            layer.fill(rows_R, keys_RHSD, values_RHSD)

    def prepare(self, write: Write, *, source_visible: int = 0) -> Cache:
        """Return the cache for one forward pass that writes at `write`, and reads the sources filled before."""
        for layer in self.self_layers:
            layer.write = write
        for cross in self.cross_layers:
            cross.write = Write(write.rows_R, write.slots_RK, None, None, source_visible)
        if isinstance(self.cache, EncoderDecoderCache):
            self.cache.is_updated = dict.fromkeys(range(len(self.cross_layers)), True)
        return self.cache


def _empty(rows: int, like_RHKD: torch.Tensor) -> torch.Tensor:
    """Return a store without any room, for keys or values of this shape."""
    return like_RHKD.new_zeros(rows, 0, like_RHKD.shape[1], like_RHKD.shape[3])


def _grown(store_BCHD: torch.Tensor, needed: int) -> torch.Tensor:
    """Return the store with room for `needed` positions: at least doubled where it grows, so copies are rare."""
    rows, capacity, heads, width = store_BCHD.shape
    if needed <= capacity:
        return store_BCHD
    wanted = max(needed, 2 * capacity)
    larger = store_BCHD.new_zeros(rows, -(-wanted // BLOCK) * BLOCK, heads, width)
    larger[:, :capacity] = store_BCHD
    return larger


def _written(store_BCHD: torch.Tensor, new_RKHD: torch.Tensor, write: Write) -> torch.Tensor:
    """Write the new positions and return the visible part of the rows that take part, `[R, H, visible, D]`."""
    if write.owner_N is not None:
        store_BCHD[write.owner_N, write.slots_RK[0]] = new_RKHD[0]
    elif write.rows_R is None and write.uniform is not None:
        store_BCHD[:, write.uniform : write.uniform + new_RKHD.shape[1]] = new_RKHD
    else:
        rows = write.rows_R if write.rows_R is not None else torch.arange(len(store_BCHD), device=store_BCHD.device)
        store_BCHD[rows[:, None], write.slots_RK] = new_RKHD
    return _shown(store_BCHD, write)


def _shown(store_BCHD: torch.Tensor, write: Write) -> torch.Tensor:
    """Return the visible part of the rows that take part, `[R, H, visible, D]`."""
    visible = store_BCHD[:, : write.visible]
    shown = visible if write.rows_R is None else visible.index_select(0, write.rows_R)
    return shown.transpose(1, 2)
