"""A key-value cache whose rows stand at different lengths: preallocated, written at each row's own cursor.

A row is rewound by moving its cursor: whatever lies at or beyond the cursor is invisible (the mask hides it) and is
overwritten by the next write. Nothing is concatenated at a step; the store grows in blocks.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache

BLOCK = 64
"""Positions by which a store grows at least."""
PAGE = 16
"""Positions of a head that are gathered in one piece; blocks are made of them."""


def cache_argument(model: type[torch.nn.Module]) -> str:
    """Return the name under which a class of models takes its key-value cache, from the first `forward` that names it.

    It is `cache` from transformers 5.24 on, and `past_key_values` before and in code that was written before.
    """
    names = {"cache", "past_key_values"}
    forwards = (vars(each)["forward"] for each in model.__mro__ if "forward" in vars(each))
    return next((name for each in forwards for name in names & set(inspect.signature(each).parameters)), "cache")


@dataclass
class CacheWrite:
    """Where one forward pass writes, and how far it reads."""

    rows_R: torch.Tensor | None
    """The rows that take part; None: all of them, in order."""
    positions_RK: torch.Tensor
    """The slot of each new position; `[1, N]` where the new positions of all rows stand in a line."""
    owner_N: torch.Tensor | None
    """The row that each position of a line belongs to; None where every row has positions of its own."""
    uniform: int | None
    """The common cursor, where all rows stand at one: then a plain slice is written."""
    visible: int
    """TextBatch that are read, from 0: the furthest cursor after this write."""
    whole: bool = False
    """Whether the stores are shown as they lie, with all rows: then nothing is gathered."""

    _pages: tuple[tuple[int, int], torch.Tensor] | None = None

    def pages(self, heads: int, capacity: int) -> torch.Tensor:
        """Return which pages of stores like these the rows that take part see, `[R, H, visible / PAGE]` in a line."""
        if self._pages is None or self._pages[0] != (heads, capacity):
            assert self.rows_R is not None, "all rows are read as they lie"
            page_P = torch.arange(-(-self.visible // PAGE), device=self.rows_R.device)
            head_RH = self.rows_R[:, None] * heads + torch.arange(heads, device=self.rows_R.device)
            self._pages = (heads, capacity), (head_RH[:, :, None] * (capacity // PAGE) + page_P).flatten()
        return self._pages[1]


class GatherBuffer:
    """Room for what is gathered of a store: one for all layers, for each is done with it when the next one comes.

    Memory that was just in use is written faster than new memory: 32 of 64 rows of 95 positions, 512 numbers each, take
    a layer 0.8 milliseconds, attention included, and 1.2 to 1.8 with a new tensor each time; without a copy it is 0.75
    (two threads of an EPYC, float32).
    """

    def __init__(self) -> None:
        self.numbers: torch.Tensor | None = None

    def gathered(self, store_BHCD: torch.Tensor, write: CacheWrite) -> torch.Tensor:
        """Return the visible part of the rows that take part, `[R, H, visible, D]`; the next call overwrites it."""
        _, heads, capacity, width = store_BHCD.shape
        page_N, size = write.pages(heads, capacity), PAGE * width
        needed = len(page_N) * size
        if self.numbers is None or len(self.numbers) < needed:
            self.numbers = store_BHCD.new_empty(2 * needed)
        gathered_NX = self.numbers[:needed].view(-1, size)
        torch.index_select(store_BHCD.view(-1, size), 0, page_N, out=gathered_NX)
        return gathered_NX.view(-1, heads, -(-write.visible // PAGE) * PAGE, width)[:, :, : write.visible]


GatherBuffers = tuple[GatherBuffer, GatherBuffer]
"""For keys and for values."""


class SelfAttentionLayer(CacheLayerMixin):
    """Self-attention keys and values of all rows in one layer, `[rows, heads, capacity, head_dim]`.

    What belongs to one head lies together: where a position's heads do, attention in bfloat16 takes twice as long
    (8 rows of 90 positions, 16 heads of 64 numbers: 0.85 against 1.74 milliseconds on two threads of an EPYC).
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
        """Write the new positions and return all that is visible, for the rows that take part."""
        return self.append(key_states.transpose(1, 2), value_states.transpose(1, 2))

    def append(self, keys_RKHD: torch.Tensor, values_RKHD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new positions, and return all that is visible, `[R, H, visible, D]`."""
        if not self.is_initialized:
            self.lazy_initialization(keys_RKHD.transpose(1, 2), values_RKHD.transpose(1, 2))
        write = self.write
        assert write is not None and self.keys is not None and self.values is not None
        self.keys, self.values = (
            _ensure_capacity(self.keys, write.visible),
            _ensure_capacity(self.values, write.visible),
        )
        _write(self.keys, keys_RKHD, write)
        _write(self.values, values_RKHD, write)
        return _visible(self.keys, write, self.buffers[0]), _visible(self.values, write, self.buffers[1])

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

    def __init__(self, rows: int, buffers: GatherBuffers) -> None:
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None
        super().__init__(rows, buffers)

    def fill(self, rows_R: torch.Tensor, keys_RHSD: torch.Tensor, values_RHSD: torch.Tensor) -> None:
        """Keep what the sources of `rows_R` project to."""
        if self._keys is None or self._values is None:
            self._keys, self._values = _empty(self.rows, keys_RHSD), _empty(self.rows, values_RHSD)
            self.is_initialized = True
        length = keys_RHSD.shape[2]
        self._keys, self._values = _ensure_capacity(self._keys, length), _ensure_capacity(self._values, length)
        self._keys[rows_R, :, :length] = keys_RHSD
        self._values[rows_R, :, :length] = values_RHSD

    @property
    def keys(self) -> torch.Tensor | None:
        """The stored keys of the rows that take part."""
        return self._read(self._keys, self.buffers[0])

    @keys.setter
    def keys(self, value: torch.Tensor | None) -> None:
        self._keys = value

    @property
    def values(self) -> torch.Tensor | None:
        """The stored values of the rows that take part."""
        return self._read(self._values, self.buffers[1])

    @values.setter
    def values(self, value: torch.Tensor | None) -> None:
        self._values = value

    def _read(self, store: torch.Tensor | None, buffer: GatherBuffer) -> torch.Tensor | None:
        if store is None or self.write is None:
            return store
        return _visible(store, self.write, buffer)


class RaggedCache:
    """The caches of one model for `rows` rows: self-attention, and cross-attention where there is an encoder."""

    def __init__(self, layers: int, rows: int, *, cross: bool) -> None:
        buffers = GatherBuffer(), GatherBuffer()
        self.self_layers = [SelfAttentionLayer(rows, buffers) for _ in range(layers)]
        self.cross_layers = [CrossAttentionLayer(rows, buffers) for _ in range(layers)] if cross else []
        self_cache = Cache(layers=list(self.self_layers))
        self.cache: Cache = (
            EncoderDecoderCache(self_cache, Cache(layers=list(self.cross_layers))) if cross else self_cache
        )

    def fill(self, rows_R: torch.Tensor, projections: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Keep the sources of `rows_R`: keys and values of each layer."""
        for layer, (keys_RHSD, values_RHSD) in zip(self.cross_layers, projections, strict=True):
            layer.fill(rows_R, keys_RHSD, values_RHSD)

    def prepare(self, write: CacheWrite, *, source_visible: int = 0) -> Cache:
        """Return the cache for one forward pass that writes at `write`, and reads the sources filled before."""
        for layer in self.self_layers:
            layer.write = write
        of_sources = CacheWrite(write.rows_R, write.positions_RK, None, None, source_visible, write.whole)
        for cross in self.cross_layers:
            cross.write = of_sources
        if isinstance(self.cache, EncoderDecoderCache):
            self.cache.is_updated = dict.fromkeys(range(len(self.cross_layers)), True)
        return self.cache


def _empty(rows: int, like_RHKD: torch.Tensor) -> torch.Tensor:
    """Return a store without any room, for keys or values of this shape."""
    return like_RHKD.new_zeros(rows, like_RHKD.shape[1], 0, like_RHKD.shape[3])


def _ensure_capacity(store_BHCD: torch.Tensor, needed: int) -> torch.Tensor:
    """Return the store with room for `needed` positions: at least doubled where it grows, so copies are rare."""
    rows, heads, capacity, width = store_BHCD.shape
    if needed <= capacity:
        return store_BHCD
    wanted = max(needed, 2 * capacity)
    larger = store_BHCD.new_zeros(rows, heads, -(-wanted // BLOCK) * BLOCK, width)
    larger[:, :, :capacity] = store_BHCD
    return larger


def _write(store_BHCD: torch.Tensor, new_RKHD: torch.Tensor, write: CacheWrite) -> None:
    """Write the new positions."""
    if write.owner_N is not None:
        store_BHCD[write.owner_N, :, write.positions_RK[0]] = new_RKHD[0]
    elif write.rows_R is None and write.uniform is not None:
        store_BHCD[:, :, write.uniform : write.uniform + new_RKHD.shape[1]] = new_RKHD.transpose(1, 2)
    else:
        rows = write.rows_R if write.rows_R is not None else torch.arange(len(store_BHCD), device=store_BHCD.device)
        store_BHCD[rows[:, None], :, write.positions_RK] = new_RKHD


def _visible(store_BHCD: torch.Tensor, write: CacheWrite, buffer: GatherBuffer) -> torch.Tensor:
    """Return the visible part of the rows that take part, `[R, H, visible, D]`, or of all of them."""
    if write.rows_R is None or write.whole:
        return store_BHCD[:, :, : write.visible]
    return buffer.gathered(store_BHCD, write)
