"""The compiled decode step: a whole forward pass as one call, on the engine's own KV cache.

Of a small model's pass in torch most is calls. ONNX Runtime runs the same operators as a graph, on memory that is bound
once: nothing is copied, in or out. Both ways write the same cache, so they alternate: this one reads one token in each
of several rows, or several in a single row, and torch the rest.

A step at 1 and 8 rows, milliseconds of processor time, one thread of a Xeon with AVX-512, medians of five interleaved
rounds, the runner's own work included:

                           torch        here         CTranslate2 4.8.5
    Llama 33M, float32     12.2  20.0   9.8   16.6   9.2   21.1
    Llama 33M, int8         5.0  10.7   2.2    6.5   1.5    5.2 (its head is in int8 too)
    T5 2.3M, float32        1.2   2.1   0.62   1.3   0.28   0.56

With two threads of a quiet machine the Llama's step took 5.7, 15.8 and 28.7 ms at 1, 8 and 32 rows, CTranslate2's 8.7,
21.0 and 39.2. Cross-attention of plain products took as long as the operator; waiting threads that spin gained nothing
beyond 8 rows. `GroupQueryAttention` refuses several tokens in several rows that have read something: those are torch's.
"""

from __future__ import annotations

import sys
import weakref

import torch

from wheels.decoding.models.cache import RaggedCache
from wheels.decoding.models.compiled.binding import Binding, CacheBindings, Shape
from wheels.decoding.models.compiled.encoder import CompiledEncoder
from wheels.decoding.models.compiled.graph import make_session
from wheels.decoding.models.compiled.layers import decoder_graph
from wheels.decoding.models.compiled.padding import padded
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.fast_positions import DistanceBias
from wheels.decoding.models.inputs import AttentionInputs, LogitsToKeep

SPARSE = 2
"""Where the rows of a pass are this many times fewer than those between the first and the last, torch reads them."""


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
        self._bindings: weakref.WeakKeyDictionary[RaggedCache, CacheBindings] = weakref.WeakKeyDictionary()
        self._tables: dict[str, torch.Tensor] = {}

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
        binding.place(rows, list(inputs.source_lengths))
        binding.token_N.copy_(tokens_RK.flatten())
        binding.position_N.copy_(inputs.positions_RK.flatten())
        binding.last_R.copy_(last_R)
        binding.visible.fill_(visible)
        logits_MV, hidden_MD = binding.run()
        return logits_MV.view(len(rows), each, -1), hidden_MD.view(len(rows), each, -1)

    def _binding(self, cache: RaggedCache, shape: Shape, visible: int) -> Binding:
        """Return the binding for a shape, with room for `visible` positions; made anew where memory moved."""
        bindings = self._bindings.get(cache)
        if bindings is None or not bindings.fits(cache, visible):
            own = self.torch.blocks[0].self_attention
            cache.reserve(visible, own.kv_heads, own.head_dim)
            bindings = self._bindings[cache] = CacheBindings.of(cache, self._reserve_tables(visible), self._tables)
        vocabulary, width = self.torch.embedding.token_VD.shape
        return bindings.get(self.session, cache, shape, (vocabulary, width))

    def _reserve_tables(self, visible: int) -> int:
        """Let the tables of positions have `visible` positions at least; return how many they have."""
        rotary, bias = self.torch.rotary, self.torch.bias
        if rotary is not None:
            length = rotary.reserve(visible)
            half = rotary.table[0].shape[-1] // 2
            self._tables["cos_TE"] = rotary.table[0][:, 0, :half].contiguous()
            self._tables["sin_TE"] = rotary.table[1][:, 0, half:].contiguous()
            return length
        if isinstance(bias, DistanceBias):
            length = bias.reserve(visible)
            self._tables |= {"ramp_HT": bias.ramp_HT, "ramp_start": torch.tensor([length - 1])}
            return length
        return sys.maxsize
