"""Memory that a compiled pass reads and writes, bound once for all passes of one shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch

from wheels.decoding.models.cache import PAGE, RaggedCache

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
    """A session, and what all its passes over one KV cache read and write.

    Args:
        session: What runs them.
        fixed: The stores and the tables, by the names of the graph's inputs.
    """

    def __init__(self, session: onnxruntime.InferenceSession, fixed: dict[str, torch.Tensor]) -> None:
        self.session, self.io = session, session.io_binding()
        self.bound: dict[str, torch.Tensor] = {}
        """Kept, for the session has the addresses alone."""
        for each in session.get_inputs():
            if each.name in fixed:
                self.bind_input(each.name, fixed[each.name])
        for each in session.get_outputs():
            name = each.name.removesuffix("_written")
            if name in fixed:
                self.bind_output(each.name, fixed[name])

    def bind_input(self, name: str, tensor: torch.Tensor) -> None:
        """Let the graph read a tensor, which must be contiguous and stay until the pass has run."""
        if self.bound.get(name) is not tensor:
            _bind(self.io.bind_input, name, tensor)
            self.bound[name] = tensor

    def bind_output(self, name: str, tensor: torch.Tensor) -> None:
        """Let the graph write a tensor."""
        _bind(self.io.bind_output, name, tensor)

    def run(self) -> None:
        """Run a pass."""
        self.session.run_with_iobinding(self.io)


class StepBinding(Binding):
    """The inputs and outputs of steps of one shape.

    Args:
        session: What runs them.
        shape: Of the passes.
        fixed: The stores and the tables, by the names of the graph's inputs.
        outputs: Results and their sizes.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        shape: Shape,
        fixed: dict[str, torch.Tensor],
        outputs: dict[str, int],
    ) -> None:
        super().__init__(session, fixed)
        rows, tokens, self.shape = shape.high - shape.low, shape.tokens, shape
        self.token_N, self.position_N, self.pick_N, self.keep_M = (
            torch.zeros(count, dtype=torch.int64) for count in (tokens, tokens, tokens, shape.kept)
        )
        self.place_RK = torch.zeros(rows, shape.width, dtype=torch.int64)
        self.last_R, self.source_R = torch.ones(rows, dtype=torch.int32), torch.ones(rows, dtype=torch.int32)
        self.visible = torch.zeros(1, dtype=torch.int32)
        written = (self.token_N, self.position_N, self.last_R, self.visible)
        self.arrays = tuple(tensor.numpy() for tensor in written)  # a small copy takes numpy a fifth of torch's time
        self.outputs = {name: torch.zeros(shape.kept, size) for name, size in outputs.items()}
        self.rows: list[int] = []
        self.source_lengths: list[int] = []
        for each in session.get_inputs():
            if each.name not in fixed and hasattr(self, each.name):  # what a head is told is bound anew each time
                self.bind_input(each.name, getattr(self, each.name))
        for name, tensor in self.outputs.items():
            self.bind_output(name, tensor)

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

    def tell(self, tokens: Any, positions: Any, last: Any, visible: int) -> None:
        """Say which tokens are read and where, each row's last position, and the largest of them plus 1."""
        for array, value in zip(self.arrays, (tokens, positions, last, visible), strict=True):
            array[:] = value

    def results(self, told: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Run the pass, whose head is told this, and return what it wrote, `[M, X]` each."""
        for name, tensor in told.items():
            self.bind_input(name, tensor)
        self.run()
        return [tensor.clone() for tensor in self.outputs.values()]


@dataclass
class CacheBindings:
    """The bindings to one KV cache, as long as it stays where it is."""

    memory: list[torch.Tensor]
    """A store of the texts, and one of the sources: those of all layers grow together."""
    room: int
    """Positions that stores and tables have."""
    tables: dict[str, torch.Tensor]
    steps: dict[Shape, StepBinding] = field(default_factory=dict)
    ragged: Binding | None = None

    @classmethod
    def of(cls, cache: RaggedCache, room: int, tables: dict[str, torch.Tensor]) -> CacheBindings:
        """Return bindings to a cache, none yet; `room` is the tables'."""
        memory = _newest(cache)
        return cls(memory, min(room, memory[0].shape[2]), dict(tables))

    def fits(self, cache: RaggedCache, visible: int) -> bool:
        """Tell whether the cache is where it was, and has room."""
        return visible <= self.room and all(map(_is, self.memory, _newest(cache)))

    def of_steps(
        self, session: onnxruntime.InferenceSession, cache: RaggedCache, shape: Shape, outputs: dict[str, int]
    ) -> StepBinding:
        """Return the binding of steps of a shape."""
        if shape not in self.steps:
            if len(self.steps) >= MOST:
                self.steps.pop(next(iter(self.steps)))
            stores = {name: store[shape.low : shape.high] for name, store in _stores(cache)}
            self.steps[shape] = StepBinding(session, shape, self.tables | stores, outputs)
        return self.steps[shape]

    def of_ragged(self, session: onnxruntime.InferenceSession, cache: RaggedCache) -> Binding:
        """Return the binding of ragged passes."""
        if self.ragged is None:
            stores = {name: store.view(-1, PAGE, store.shape[-1]) for name, store in _stores(cache)}
            self.ragged = Binding(session, self.tables | stores)
        return self.ragged


def _is(one: object, other: object) -> bool:
    return one is other


def _newest(cache: RaggedCache) -> list[torch.Tensor]:
    """Return the last layer's keys, of the texts and of the sources: they are the last to move."""
    return [layers[-1].stores()[0] for layers in (cache.self_layers, cache.cross_layers) if layers]


def _stores(cache: RaggedCache) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield the stores, by the names of the graphs' inputs."""
    for prefix, layers in (("", cache.self_layers), ("source_", cache.cross_layers)):
        for number, layer in enumerate(layers):
            for side, store in zip(("keys", "values"), layer.stores(), strict=True):
                yield f"{prefix}{side}_{number}", store


def _bind(bind: Any, name: str, tensor: torch.Tensor) -> None:
    """Bind a tensor's memory, which must be contiguous."""
    bind(name, "cpu", 0, NUMPY[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
