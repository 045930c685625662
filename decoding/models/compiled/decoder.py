"""The compiled decode step: a whole forward pass as one call, on the engine's own KV cache.

Of a small model's pass in torch most is calls. ONNX Runtime runs the same operators as a graph, on memory that is bound
once: nothing is copied, in or out. Both ways write the same cache, so they alternate: this one reads one token in each
of several rows, or several in a single row, and torch the rest.

A step of a Llama of 33M weights at 1, 8 and 32 rows, float32, in ms: torch's fast path 13.1, 20.9, 32.2, this one 5.7,
15.8, 28.7, CTranslate2 4.8.5 8.7, 21.0, 39.2. Of a T5 of 2.3M: 3.4, 6.3, 9.9; 0.73, 1.4, 2.8; 1.3, 2.2, 4.7 at least
(medians of interleaved rounds, two cores of a Xeon with AVX-512; the T5 on a machine with other work). Cross-attention
of plain products took as long as the operator here; one thread as long as two at 1 row of the T5.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import torch

from wheels.decoding.models.cache import RaggedCache
from wheels.decoding.models.compiled.encoder import CompiledEncoder
from wheels.decoding.models.compiled.graph import make_session
from wheels.decoding.models.compiled.layers import decoder_graph
from wheels.decoding.models.compiled.padding import padded
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.fast_positions import DistanceBias
from wheels.decoding.models.inputs import AttentionInputs, LogitsToKeep

NUMPY = {torch.float32: np.float32, torch.int64: np.int64, torch.int32: np.int32}
SPARSE = 2
"""Where the rows of a pass are this many times fewer than those between the first and the last, torch reads them."""
MOST = 64
"""Bindings that are kept: one for each range of rows and number of tokens."""


@dataclass(frozen=True)
class Shape:
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
    """The inputs of passes of one shape: memory that the session reads, and the stores that it reads and writes."""

    def __init__(self, session: onnxruntime.InferenceSession, shape: Shape, fixed: dict[str, torch.Tensor]) -> None:
        rows, tokens = shape.high - shape.low, shape.tokens
        self.session, self.io, self.shape = session, session.io_binding(), shape
        self.token_N, self.position_N, self.pick_N, self.keep_M = (
            torch.zeros(count, dtype=torch.int64) for count in (tokens, tokens, tokens, shape.kept)
        )
        self.place_RK = torch.zeros(rows, shape.width, dtype=torch.int64)
        self.last_R, self.source_R = torch.ones(rows, dtype=torch.int32), torch.ones(rows, dtype=torch.int32)
        self.visible = torch.zeros(1, dtype=torch.int32)
        self.rows: list[int] | None = None
        own = ("token_N", "position_N", "pick_N", "keep_M", "place_RK", "last_R", "visible", "source_R")
        self.fixed = fixed | {name: getattr(self, name) for name in own}
        """Kept, for the session has the addresses alone."""
        for each in session.get_inputs():
            _bind(self.io.bind_input, each.name, self.fixed[each.name])
            if each.name + "_written" in {output.name for output in session.get_outputs()}:
                _bind(self.io.bind_output, each.name + "_written", self.fixed[each.name])

    def place(self, rows: list[int]) -> None:
        """Say which rows take part, in the order of the pass."""
        if rows == self.rows:
            return
        index_R, step_K = torch.tensor(rows) - self.shape.low, torch.arange(self.shape.width)
        self.pick_N.copy_((index_R[:, None] * self.shape.width + step_K).flatten())
        self.place_RK.zero_()[index_R] = torch.arange(self.shape.tokens).view(len(rows), -1)
        self.keep_M.copy_(torch.arange(self.shape.tokens - self.shape.kept, self.shape.tokens))
        self.rows = rows

    def run(self, width: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the pass; return logits and hidden states, `[M, V]` and `[M, D]`."""
        logits_MV, hidden_MD = (torch.empty(self.shape.kept, size) for size in (vocabulary, width))
        _bind(self.io.bind_output, "logits_MV", logits_MV)
        _bind(self.io.bind_output, "hidden_MD", hidden_MD)
        self.session.run_with_iobinding(self.io)
        return logits_MV, hidden_MD


@dataclass
class Bound:
    """The bindings to one KV cache, as long as it stays where it is."""

    memory: list[torch.Tensor]
    """A store of the text, and one of the sources."""
    shapes: dict[Shape, Binding] = field(default_factory=dict)


class CompiledDecoder:
    """A decoder whose decode steps run as one call.

    Args:
        decoder: The same decoder in torch: its like reads what this one does not.

    Raises:
        Unsupported: for a decoder with parts that have no operator.
    """

    def __init__(self, decoder: FastDecoder) -> None:
        decoder = padded(decoder)
        self.torch, self.kind, self.encoder_kind = decoder, decoder.kind, decoder.encoder_kind
        self.encoder = None if decoder.encoder is None else CompiledEncoder(decoder.encoder)
        self.session = make_session(decoder_graph(decoder))
        self._bound: weakref.WeakKeyDictionary[RaggedCache, Bound] = weakref.WeakKeyDictionary()
        self._tables: dict[str, torch.Tensor] = {}
        self._length = 0

    def forward(
        self, tokens_RK: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs, keep: LogitsToKeep
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the new tokens; return logits and hidden states where they are kept, `[R, W, V]` and `[R, W, D]`."""
        rows, width = list(inputs.rows), inputs.positions_RK.shape[1]
        low, high = min(rows), max(rows) + 1
        one_each = inputs.packing is None and width == 1 and high - low < SPARSE * len(rows)
        if not one_each and len(rows) > 1:
            return self.torch.forward(tokens_RK, cache, inputs, keep)
        assert inputs.cursor_B is not None, "the runner tells the cursors"
        last_R = inputs.cursor_B[low:high] if width == 1 else inputs.positions_RK[:, -1]
        visible = inputs.visible if high - low == len(rows) else int(last_R.max()) + 1
        each = 1 if keep.keep_R is None or width == 1 else int(keep.keep_R[0])
        shape = Shape(low, high, tokens_RK.numel(), width, each * len(rows))
        binding = self._binding(cache, shape, visible)
        binding.place(rows)
        binding.token_N.copy_(tokens_RK.flatten())
        binding.position_N.copy_(inputs.positions_RK.flatten())
        binding.last_R.copy_(last_R)
        binding.visible.fill_(visible)
        if inputs.source_lengths:
            binding.source_R[torch.tensor(rows) - low] = torch.tensor(inputs.source_lengths, dtype=torch.int32)
        logits_MV, hidden_MD = binding.run(*reversed(self.torch.embedding.token_VD.shape))
        return logits_MV.view(len(rows), each, -1), hidden_MD.view(len(rows), each, -1)

    def _binding(self, cache: RaggedCache, shape: Shape, visible: int) -> Binding:
        """Return the binding for a shape, with room for `visible` positions; made anew where memory moved."""
        own = self.torch.blocks[0].self_attention
        cache.reserve(visible, own.kv_heads, own.head_dim)
        if self._reserve_tables(visible):
            self._bound.clear()
        # The stores of all layers grow together: those of the text, and those of the sources.
        memory = [layers[-1].stores()[0] for layers in (cache.self_layers, cache.cross_layers) if layers]
        bound = self._bound.get(cache)
        if bound is None or any(one is not other for one, other in zip(bound.memory, memory, strict=True)):
            bound = self._bound[cache] = Bound(memory)
        if shape not in bound.shapes:
            if len(bound.shapes) >= MOST:
                bound.shapes.pop(next(iter(bound.shapes)))
            bound.shapes[shape] = Binding(self.session, shape, self._tables | dict(_stores(cache, shape)))
        return bound.shapes[shape]

    def _reserve_tables(self, visible: int) -> bool:
        """Let the tables of positions reach beyond `visible`; tell whether they moved."""
        if visible <= self._length:
            return False
        rotary, bias = self.torch.rotary, self.torch.bias
        self._length = visible
        if rotary is not None:
            self._length = rotary.reserve(visible)
            half = rotary.table[0].shape[-1] // 2
            self._tables["cos_TE"] = rotary.table[0][:, 0, :half].contiguous()
            self._tables["sin_TE"] = rotary.table[1][:, 0, half:].contiguous()
        if isinstance(bias, DistanceBias):
            self._length = bias.reserve(visible)
            self._tables["ramp_HT"] = bias.ramp_HT
            self._tables["ramp_start"] = torch.tensor([self._length - 1])
        return rotary is not None or isinstance(bias, DistanceBias)


def _stores(cache: RaggedCache, shape: Shape) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield the stores of the rows of a pass, by the names of the graph's inputs."""
    for prefix, layers in (("", cache.self_layers), ("source_", cache.cross_layers)):
        for number, layer in enumerate(layers):
            for side, store in zip(("keys", "values"), layer.stores(), strict=True):
                yield f"{prefix}{side}_{number}", store[shape.low : shape.high]


def _bind(bind: Any, name: str, tensor: torch.Tensor) -> None:
    """Bind a tensor's memory, which must be contiguous."""
    bind(name, "cpu", 0, NUMPY[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
