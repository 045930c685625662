"""A KV cache for ragged batches: preallocated, written at each row's own cursor.

A row is rolled back by moving its cursor. What lies at or beyond the cursor is masked, and the next write overwrites
it. A decode step concatenates nothing; the stores grow in blocks.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache

BLOCK = 64
"""Positions by which a store grows at least."""
PAGE = 16
"""Positions of a head that are gathered in one piece; blocks are made of them."""


def cache_argument(model: type[torch.nn.Module]) -> str:
    """Return the name under which a class of models takes its KV cache, from the first `forward` that names it.

    It is `cache` from transformers 5.24 on, and `past_key_values` before and in code that was written before.
    """
    names = {"cache", "past_key_values"}
    forwards = (vars(each)["forward"] for each in model.__mro__ if "forward" in vars(each))
    return next((name for each in forwards for name in names & set(inspect.signature(each).parameters)), "cache")


@dataclass
class CacheWrite:
    """Where one forward pass writes its keys and values, and how far it reads."""

    rows_R: torch.Tensor | None
    """The rows that take part; None: all of them, in order."""
    positions_RK: torch.Tensor
    """Where each new token is written in its row; `[1, N]` where the new tokens of all rows are packed."""
    visible: int
    """Positions that are read, from 0: the length of the longest row after this write."""
    start: int | None = None
    """The first new position, where it is the same in all rows: then a plain slice is written."""
    owner_N: torch.Tensor | None = None
    """The row of each packed token; None where they are not packed."""
    per_row: bool = False
    """Whether each row attends by itself: then it reads the whole store, and nothing is gathered."""
    _pages: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    _elsewhere: dict[torch.device, CacheWrite] = field(default_factory=dict)

    def on(self, device: torch.device) -> CacheWrite:
        """Return the same for a layer of another device than its model takes its tokens on."""
        if device == self.positions_RK.device:
            return self
        if device not in self._elsewhere:
            parts = {name: getattr(self, name) for name in ("rows_R", "positions_RK", "owner_N")}
            there: dict[str, Any] = {name: part if part is None else part.to(device) for name, part in parts.items()}
            self._elsewhere[device] = replace(self, **there, _pages={}, _elsewhere={})
        return self._elsewhere[device]

    def pages(self, heads: int, capacity: int) -> torch.Tensor:
        """Return which pages the rows that take part see in a store of this shape, `[R x H x pages]`."""
        if (heads, capacity) not in self._pages:
            assert self.rows_R is not None, "all rows are read in place"
            page_L = torch.arange(-(-self.visible // PAGE), device=self.rows_R.device)
            head_RH = self.rows_R[:, None] * heads + torch.arange(heads, device=self.rows_R.device)
            self._pages[heads, capacity] = (head_RH[:, :, None] * (capacity // PAGE) + page_L).flatten()
        return self._pages[heads, capacity]


class GatherBuffer:
    """Memory for the rows gathered from a store; all layers share it, for each is done before the next begins.

    Memory that was just in use is written faster than new memory: gathering 32 of 64 rows of 95 positions, 512 numbers
    each, takes a layer 0.8 ms, attention included, and 1.2 to 1.8 ms with a new tensor each time. Without a copy it is
    0.75 (two threads of an EPYC, float32).
    """

    def __init__(self) -> None:
        self.memory: torch.Tensor | None = None

    def gather(self, store_BHLE: torch.Tensor, write: CacheWrite) -> torch.Tensor:
        """Return the visible part of the rows that take part, `[R, H, visible, D]`; the next call overwrites it."""
        _, heads, capacity, width = store_BHLE.shape
        page_N, size = write.pages(heads, capacity), PAGE * width
        needed = len(page_N) * size
        if self.memory is None or len(self.memory) < needed or self.memory.device != store_BHLE.device:
            self.memory = store_BHLE.new_empty(2 * needed)
        gathered_NX = self.memory[:needed].view(-1, size)
        torch.index_select(store_BHLE.view(-1, size), 0, page_N, out=gathered_NX)
        return gathered_NX.view(-1, heads, -(-write.visible // PAGE) * PAGE, width)[:, :, : write.visible]


GatherBuffers = tuple[GatherBuffer, GatherBuffer]
"""For keys and for values."""
RowKeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of one row in each layer, `[K, H, E]`; none where nothing was read."""


class SelfAttentionLayer(CacheLayerMixin):
    """Keys and values of all rows in one layer, `[rows, heads, capacity, head_dim]`.

    The positions of a head are contiguous. With the heads of a position contiguous instead, attention in bfloat16 takes
    twice as long (8 rows of 90 positions, 16 heads of 64 numbers: 0.85 against 1.74 ms on two threads of an EPYC).
    """

    is_croppable = False
    is_sliding = False

    def __init__(self, rows: int, buffers: GatherBuffers) -> None:
        super().__init__()
        self.rows, self.buffers = rows, buffers
        self.write: CacheWrite | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make empty stores of the right shape."""
        self.keys, self.values = _empty(self.rows, key_states), _empty(self.rows, value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values `[R, H, K, D]`; transformers' interface."""
        return self.append(key_states.transpose(1, 2), value_states.transpose(1, 2))

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values, `[R, K, H, D]` or `[N, H, D]`; return all that is visible, `[R, H, visible, D]`."""
        assert self.write is not None
        write = self.write.on(keys.device)
        keys_RKHE, values_RKHE = (each.view(*write.positions_RK.shape, *each.shape[-2:]) for each in (keys, values))
        self.reserve(write.visible, keys_RKHE.transpose(1, 2), values_RKHE.transpose(1, 2))
        assert self.keys is not None and self.values is not None
        _write(self.keys, keys_RKHE, write)
        _write(self.values, values_RKHE, write)
        return _visible(self.keys, write, self.buffers[0]), _visible(self.values, write, self.buffers[1])

    def reserve(self, length: int, keys_RHKE: torch.Tensor, values_RHKE: torch.Tensor) -> None:
        """Make room for `length` positions of every row, of keys and values like these."""
        if not self.is_initialized:
            self.lazy_initialization(keys_RHKE, values_RHKE)
        self.keys, self.values = (_ensure_capacity(store, length) for store in self.stores())

    def fill(self, rows_R: torch.Tensor, keys_RHKE: torch.Tensor, values_RHKE: torch.Tensor) -> None:
        """Store the first positions of `rows_R`."""
        length = keys_RHKE.shape[2]
        self.reserve(length, keys_RHKE, values_RHKE)
        for store, new_RHKE in zip(self.stores(), (keys_RHKE, values_RHKE), strict=True):
            store[rows_R.to(store.device), :, :length] = new_RHKE

    def copy(self, row: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return copies of the keys and values of a row's first positions, `[K, H, E]`."""
        keys, values = self.stores()
        return keys[row, :, :length].transpose(0, 1).clone(), values[row, :, :length].transpose(0, 1).clone()

    def stores(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the whole stores of keys and values."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """The runner has the cursors; to the model the cache always looks empty."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the sizes of masks that the model would build; the runner passes its own."""
        return (self.write.visible if self.write else query_length), 0

    def get_max_length(self) -> int:
        """There is no limit."""
        return -1


class CrossAttentionLayer(SelfAttentionLayer):
    """Keys and values over the sources of all rows in one layer: filled once for each source, then only read."""

    def __init__(self, rows: int, buffers: GatherBuffers) -> None:
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None
        super().__init__(rows, buffers)

    def stores(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the whole stores of keys and values."""
        assert self._keys is not None and self._values is not None
        return self._keys, self._values

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is visible of the sources, `[R, H, S, D]`."""
        keys, values = self.keys, self.values
        assert keys is not None and values is not None, "sources are encoded before the texts are read"
        return keys, values

    @property
    def keys(self) -> torch.Tensor | None:
        """The keys of the rows that take part; transformers' interface."""
        return self._seen(self._keys, self.buffers[0])

    @keys.setter
    def keys(self, value: torch.Tensor | None) -> None:
        self._keys = value

    @property
    def values(self) -> torch.Tensor | None:
        """The values of the rows that take part; transformers' interface."""
        return self._seen(self._values, self.buffers[1])

    @values.setter
    def values(self, value: torch.Tensor | None) -> None:
        self._values = value

    def _seen(self, store: torch.Tensor | None, buffer: GatherBuffer) -> torch.Tensor | None:
        return store if store is None or self.write is None else _visible(store, self.write.on(store.device), buffer)


class RaggedCache:
    """The KV cache of one model for `rows` rows: self-attention, and cross-attention where there is an encoder."""

    def __init__(self, layers: int, rows: int, *, cross: bool) -> None:
        self.rows, buffers = rows, (GatherBuffer(), GatherBuffer())
        self.self_layers = [SelfAttentionLayer(rows, buffers) for _ in range(layers)]
        self.cross_layers = [CrossAttentionLayer(rows, buffers) for _ in range(layers)] if cross else []
        self_cache = Cache(layers=list(self.self_layers))
        self.cache: Cache = (
            EncoderDecoderCache(self_cache, Cache(layers=list(self.cross_layers))) if cross else self_cache
        )

    def fill(self, rows_R: torch.Tensor, projections: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Store the sources of `rows_R`: keys and values of each layer."""
        for layer, (keys_RHSE, values_RHSE) in zip(self.cross_layers, projections, strict=True):
            layer.fill(rows_R, keys_RHSE, values_RHSE)

    def reserve(self, visible: int, heads: int, size: int) -> None:
        """Make room for `visible` positions of every row, in float32 where nothing was stored yet."""
        for layer in self.self_layers:
            layer.reserve(visible, *[torch.empty(1, heads, 0, size)] * 2)

    def copy_row(self, row: int, length: int, source_length: int) -> tuple[RowKeyValues, RowKeyValues]:
        """Return copies of what is kept of one row: of the text's first positions, and of the source's."""
        text = [layer.copy(row, length) for layer in self.self_layers] if length else []
        return text, [layer.copy(row, source_length) for layer in self.cross_layers] if source_length else []

    def restore_rows(self, rows: list[int], kept: list[tuple[RowKeyValues, RowKeyValues]]) -> None:
        """Put what `copy_row` returned into `rows`."""
        stacks: tuple[Sequence[SelfAttentionLayer], ...] = (self.self_layers, self.cross_layers)
        for part, layers in enumerate(stacks):
            filled = [(row, own[part]) for row, own in zip(rows, kept, strict=True) if own[part]]
            for number, layer in enumerate(layers if filled else ()):
                sides = zip(*(own[number] for _, own in filled), strict=True)
                keys_RHKE, values_RHKE = (pad_sequence(list(side), batch_first=True).transpose(1, 2) for side in sides)
                layer.fill(torch.tensor([row for row, _ in filled], device=keys_RHKE.device), keys_RHKE, values_RHKE)

    def prepare(self, write: CacheWrite, *, source_visible: int = 0) -> Cache:
        """Return the cache for one forward pass: it writes at `write`, and sees that many positions of the sources."""
        for layer in self.self_layers:
            layer.write = write
        source = CacheWrite(write.rows_R, write.positions_RK, source_visible, per_row=write.per_row)
        for cross in self.cross_layers:
            cross.write = source
        if isinstance(self.cache, EncoderDecoderCache):
            self.cache.is_updated = dict.fromkeys(range(len(self.cross_layers)), True)
        return self.cache


def _empty(rows: int, like_RHKE: torch.Tensor) -> torch.Tensor:
    """Return a store of capacity 0 for keys or values of this shape."""
    return like_RHKE.new_zeros(rows, like_RHKE.shape[1], 0, like_RHKE.shape[3])


def _ensure_capacity(store_BHLE: torch.Tensor, needed: int) -> torch.Tensor:
    """Return the store with capacity for `needed` positions; it at least doubles where it grows, so copies are rare."""
    rows, heads, capacity, width = store_BHLE.shape
    if needed <= capacity:
        return store_BHLE
    wanted = max(needed, 2 * capacity)
    larger = store_BHLE.new_zeros(rows, heads, -(-wanted // BLOCK) * BLOCK, width)
    larger[:, :, :capacity] = store_BHLE
    return larger


def capacity(tokens: int) -> int:
    """Return the positions of a store that has grown to so many tokens, one at a time (`_ensure_capacity`)."""
    return BLOCK << max(0, -(-tokens // BLOCK) - 1).bit_length()


def _write(store_BHLE: torch.Tensor, new_RKHE: torch.Tensor, write: CacheWrite) -> None:
    """Write the new positions."""
    if write.owner_N is not None:
        store_BHLE[write.owner_N, :, write.positions_RK[0]] = new_RKHE[0]
    elif write.rows_R is None and write.start is not None:
        store_BHLE[:, :, write.start : write.start + new_RKHE.shape[1]] = new_RKHE.transpose(1, 2)
    else:
        rows = write.rows_R if write.rows_R is not None else torch.arange(len(store_BHLE), device=store_BHLE.device)
        store_BHLE[rows[:, None], :, write.positions_RK] = new_RKHE


def _visible(store_BHLE: torch.Tensor, write: CacheWrite, buffer: GatherBuffer) -> torch.Tensor:
    """Return the visible part of the rows that take part, `[R, H, visible, D]`; of all rows in a pass by row."""
    if write.rows_R is None or write.per_row:
        return store_BHLE[:, :, : write.visible]
    return buffer.gather(store_BHLE, write)
