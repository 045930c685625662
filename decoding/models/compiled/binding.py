"""Memory that a compiled pass reads and writes, bound once for all passes of one shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch

from wheels.decoding.models.cache import RaggedCache

NUMPY = {torch.float32: np.float32, torch.int64: np.int64, torch.int32: np.int32}
MOST = 64
"""Bindings to one KV cache that are kept: one for each range of rows and number of tokens."""


class Shape(NamedTuple):
    """The shape of a pass: rows of the cache from `low` to below `high`."""

    low: int
    high: int
    tokens: int
    """N, that are read."""
    width: int
    """K, tokens of each row."""
    kept: int
    """M, positions whose logits are wanted."""


class Binding:
    """The inputs and outputs of passes of one shape.

    Args:
        session: What runs them.
        shape: Of the passes.
        fixed: The stores and the tables, by the names of the graph's inputs.
        outputs: Sizes of the logits and of the hidden state.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        shape: Shape,
        fixed: dict[str, torch.Tensor],
        outputs: tuple[int, int],
    ) -> None:
        rows, tokens = shape.high - shape.low, shape.tokens
        self.session, self.io, self.shape = session, session.io_binding(), shape
        self.token_N, self.position_N, self.pick_N, self.keep_M = (
            torch.zeros(count, dtype=torch.int64) for count in (tokens, tokens, tokens, shape.kept)
        )
        self.place_RK = torch.zeros(rows, shape.width, dtype=torch.int64)
        self.last_R, self.source_R = torch.ones(rows, dtype=torch.int32), torch.ones(rows, dtype=torch.int32)
        self.visible = torch.zeros(1, dtype=torch.int32)
        self.logits_MV, self.hidden_MD = (torch.zeros(shape.kept, size) for size in outputs)
        self.rows: list[int] = []
        self.source_lengths: list[int] = []
        self.fixed = fixed
        """Kept, for the session has the addresses alone."""
        for each in session.get_inputs():
            _bind(self.io.bind_input, each.name, fixed[each.name] if each.name in fixed else getattr(self, each.name))
        for each in session.get_outputs():
            name = each.name.removesuffix("_written")
            _bind(self.io.bind_output, each.name, fixed[name] if name in fixed else getattr(self, name))

    def place(self, rows: list[int], source_lengths: list[int]) -> None:
        """Say which rows take part, in the order of the pass, and how long their sources are."""
        if rows == self.rows and source_lengths == self.source_lengths:
            return
        index_R, step_K = torch.tensor(rows) - self.shape.low, torch.arange(self.shape.width)
        self.pick_N.copy_((index_R[:, None] * self.shape.width + step_K).flatten())
        self.place_RK.zero_()[index_R] = torch.arange(self.shape.tokens).view(len(rows), -1)
        self.keep_M.copy_(torch.arange(self.shape.tokens - self.shape.kept, self.shape.tokens))
        if source_lengths:
            self.source_R[index_R] = torch.tensor(source_lengths, dtype=torch.int32)
        self.rows, self.source_lengths = rows, source_lengths

    def run(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the pass; return logits and hidden states, `[M, V]` and `[M, D]`."""
        self.session.run_with_iobinding(self.io)
        return self.logits_MV.clone(), self.hidden_MD.clone()


@dataclass
class CacheBindings:
    """The bindings to one KV cache, as long as it stays where it is."""

    memory: list[torch.Tensor]
    """A store of the texts, and one of the sources: those of all layers grow together."""
    room: int
    """Positions that stores and tables have."""
    tables: dict[str, torch.Tensor]
    shapes: dict[Shape, Binding] = field(default_factory=dict)

    @classmethod
    def of(cls, cache: RaggedCache, room: int, tables: dict[str, torch.Tensor]) -> CacheBindings:
        """Return bindings to a cache, none yet; `room` is the tables'."""
        memory = _newest(cache)
        return cls(memory, min(room, memory[0].shape[2]), dict(tables))

    def fits(self, cache: RaggedCache, visible: int) -> bool:
        """Tell whether the cache is where it was, and has room."""
        return visible <= self.room and all(map(_is, self.memory, _newest(cache)))

    def get(
        self, session: onnxruntime.InferenceSession, cache: RaggedCache, shape: Shape, outputs: tuple[int, int]
    ) -> Binding:
        """Return the binding for a shape."""
        if shape not in self.shapes:
            if len(self.shapes) >= MOST:
                self.shapes.pop(next(iter(self.shapes)))
            self.shapes[shape] = Binding(session, shape, self.tables | dict(_stores(cache, shape)), outputs)
        return self.shapes[shape]


def _is(one: object, other: object) -> bool:
    return one is other


def _newest(cache: RaggedCache) -> list[torch.Tensor]:
    """Return the last layer's keys, of the texts and of the sources: they are the last to move."""
    return [layers[-1].stores()[0] for layers in (cache.self_layers, cache.cross_layers) if layers]


def _stores(cache: RaggedCache, shape: Shape) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield the stores of the rows of a pass, by the names of the graph's inputs."""
    for prefix, layers in (("", cache.self_layers), ("source_", cache.cross_layers)):
        for number, layer in enumerate(layers):
            for side, store in zip(("keys", "values"), layer.stores(), strict=True):
                yield f"{prefix}{side}_{number}", store[shape.low : shape.high]


def _bind(bind: Any, name: str, tensor: torch.Tensor) -> None:
    """Bind a tensor's memory, which must be contiguous."""
    bind(name, "cpu", 0, NUMPY[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
