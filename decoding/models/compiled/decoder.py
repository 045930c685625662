"""The compiled decoder: a whole forward pass as one call, on the engine's own KV cache.

Of a small model's pass in torch most is calls. ONNX Runtime runs the same operators as a graph, on memory that is bound
once. Both ways write the same cache, so they alternate. Steps read one token in each of several rows, or several in a
single row, and copy nothing (`step`). All else is a ragged pass, which gathers what its rows see (`ragged`):
`GroupQueryAttention` refuses several tokens in several rows that have read something.

A step at 1 and 8 rows, milliseconds of processor time, one thread of a Xeon with AVX-512, medians of five interleaved
rounds, the runner's own work included:

                           torch        here         CTranslate2 4.8.5
    Llama 33M, float32     12.2  20.0   9.8   16.6   9.2   21.1
    Llama 33M, int8         5.0  10.7   2.2    6.5   1.5    5.2 (its head is in int8 too)
    T5 2.3M, float32        1.2   2.1   0.62   1.3   0.28   0.56

A ragged pass of 2, 4 and 8 rows that read 5.5, 4.5 and 5 tokens on average after 24, likewise, medians of fourteen:

                           torch               here
    Llama 33M, float32     21.0  24.7  36.5    14.5  17.1  27.9
    Llama 33M, int8        12.9  14.9  22.3     7.4   9.6  16.7
    T5 2.3M, float32        3.1   3.7   4.8     1.9   2.2   3.4

With two threads of a quiet machine the Llama's step took 5.7, 15.8 and 28.7 ms at 1, 8 and 32 rows, CTranslate2's 8.7,
21.0 and 39.2. Cross-attention of plain products took as long as the operator; waiting threads that spin gained nothing
beyond 8 rows.
"""

from __future__ import annotations

import sys
import weakref
from functools import cached_property

import onnxruntime
import torch

from wheels.decoding.models.cache import RaggedCache
from wheels.decoding.models.compiled.binding import CacheBindings, Shape, StepBinding
from wheels.decoding.models.compiled.encoder import CompiledEncoder
from wheels.decoding.models.compiled.graph import make_session
from wheels.decoding.models.compiled.layout import layout, whole_pages
from wheels.decoding.models.compiled.padding import padded
from wheels.decoding.models.compiled.ragged import RaggedWriter
from wheels.decoding.models.compiled.score import MakeHead
from wheels.decoding.models.compiled.step import StepWriter
from wheels.decoding.models.fast import FastDecoder
from wheels.decoding.models.fast_positions import DistanceBias
from wheels.decoding.models.head_inputs import HeadInputs
from wheels.decoding.models.inputs import AttentionInputs, LogitsToKeep, Results

SPARSE = 2
"""Where the rows of a step are this many times fewer than those between the first and the last, they are gathered."""
GATHERED = 2**20
"""Numbers in a layer's keys that a ragged pass gathers at most, where each query head has keys of its own.

Beyond, torch attends to one row after another where it lies, and is faster. A pass of 8 rows of 512 numbers takes as
long in both at 250 positions. With 3 heads of keys for 9 of queries, which torch copies too, it takes 1.5 times as long
in torch at 1,800."""


class CompiledDecoder:
    """A decoder whose passes run as one call each.

    Args:
        decoder: The same decoder in torch.
        head: Adds a deferral head, whose gain is then a third result.

    Raises:
        Unsupported: for a decoder or a head with parts that have no operator.
    """

    name = "onnx"

    def __init__(self, decoder: FastDecoder, head: MakeHead | None = None) -> None:
        decoder = padded(decoder)
        self.torch, self.kind, self.encoder_kind = decoder, decoder.kind, decoder.encoder_kind
        self.encoder = None if decoder.encoder is None else CompiledEncoder(decoder.encoder)
        self.head = head
        self.session = make_session(StepWriter(decoder, head).write())
        self._bindings: weakref.WeakKeyDictionary[RaggedCache, CacheBindings] = weakref.WeakKeyDictionary()
        self._tables: dict[str, torch.Tensor] = {}

    @cached_property
    def ragged(self) -> onnxruntime.InferenceSession:
        """What runs ragged passes; it has a copy of the weights, and is made when one is first read."""
        return make_session(RaggedWriter(self.torch, self.head).write())

    def forward(
        self, tokens_RK: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs, keep: LogitsToKeep
    ) -> Results:
        """Read the new tokens; return logits and hidden states where they are kept, `[R, W, V]` and `[R, W, D]`."""
        rows, width = inputs.rows, inputs.positions_RK.shape[1]
        if len(rows) == 1 or (width == 1 and max(rows) + 1 - min(rows) < SPARSE * len(rows)):
            return self._step(tokens_RK, cache, inputs, keep)
        if inputs.packing is not None and self._gathers_much(inputs):
            return self.torch.forward(tokens_RK, cache, inputs, keep)
        return self._ragged_pass(tokens_RK, cache, inputs, keep)

    def _gathers_much(self, inputs: AttentionInputs) -> bool:
        """Tell whether torch is faster, for it gathers nothing."""
        own = self.torch.blocks[0].self_attention
        numbers = len(inputs.rows) * (inputs.visible + inputs.source_visible) * own.heads * own.head_dim
        return own.heads == own.kv_heads and numbers > GATHERED

    def step(
        self,
        rows: list[int],
        rows_R: torch.Tensor | None,
        firsts: list[int],
        tokens_BT: torch.Tensor,
        cursor_B: torch.Tensor,
        source_lengths: list[int],
        cache: RaggedCache,
        told: HeadInputs | None,
    ) -> Results | None:
        """Read one token in each of some rows, from `firsts` on; None where a ragged pass is to do it.

        As `forward` does, `[R, X]` each, without what only other passes need: that takes as long as a small model.
        """
        low, high = min(rows), max(rows) + 1
        if len(rows) > 1 and high - low >= SPARSE * len(rows):
            return None
        last_R = cursor_B.numpy()[low:high]
        visible = (max(firsts) if high - low == len(rows) else int(last_R.max())) + 1
        binding = self._binding(Shape(low, high, len(rows), 1, len(rows)), rows, source_lengths, cache, visible)
        binding.tell(tokens_BT.numpy()[rows, firsts], firsts, last_R, visible)
        return tuple(binding.results({} if told is None else told.of(rows_R)))

    def _step(
        self, tokens_RK: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs, keep: LogitsToKeep
    ) -> Results:
        """Read several tokens in one row, or one in each of several."""
        rows, width = list(inputs.rows), inputs.positions_RK.shape[1]
        low, high = min(rows), max(rows) + 1
        assert inputs.cursor_B is not None, "the runner tells the cursors"
        last_R = inputs.cursor_B[low:high] if width == 1 else inputs.positions_RK[:, -1]
        visible = inputs.visible if high - low == len(rows) else int(last_R.max()) + 1
        each = 1 if keep.keep_R is None or width == 1 else int(keep.keep_R[0])
        shape = Shape(low, high, tokens_RK.numel(), width, each * len(rows))
        binding = self._binding(shape, rows, list(inputs.source_lengths), cache, visible)
        binding.tell(tokens_RK.flatten(), inputs.positions_RK.flatten(), last_R, visible)
        return tuple(result_MX.view(len(rows), each, -1) for result_MX in binding.results(self._told(inputs)))

    def _binding(
        self, shape: Shape, rows: list[int], source_lengths: list[int], cache: RaggedCache, visible: int
    ) -> StepBinding:
        """Return the binding of a step, which knows the rows that take part."""
        binding = self._bindings_of(cache, visible).of_steps(self.session, cache, shape, self._outputs)
        binding.place(rows, source_lengths)
        return binding

    def _ragged_pass(
        self, tokens_RK: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs, keep: LogitsToKeep
    ) -> Results:
        """Read any number of tokens in each of any rows."""
        visible = whole_pages(inputs.visible)
        binding = self._bindings_of(cache, visible).of_ragged(self.ragged, cache)
        told = layout(tokens_RK, cache, inputs, keep) | self._told(inputs)
        told["visible"] = torch.tensor([visible], dtype=torch.int32)
        for name, tensor in told.items():
            binding.bind_input(name, tensor)
        rows, kept = len(inputs.rows), len(told["keep_M"])
        results = {name: torch.empty(kept, size) for name, size in self._outputs.items()}
        for name, result in results.items():
            binding.bind_output(name, result)
        binding.run()
        return tuple(result_MX.view(rows, kept // rows, -1) for result_MX in results.values())

    def _told(self, inputs: AttentionInputs) -> dict[str, torch.Tensor]:
        """Return what the head is told."""
        if self.head is None:
            return {}
        assert inputs.told is not None, "a runner whose decoder has a head tells it of the texts"
        return inputs.told.of(inputs.write.rows_R)

    @cached_property
    def _outputs(self) -> dict[str, int]:
        """Results and their sizes: logits, the hidden state, and the gain where there is a head."""
        vocabulary, width = self.torch.embedding.token_VD.shape
        return {"logits_MV": vocabulary, "hidden_MD": width} | ({} if self.head is None else {"gain_M1": 1})

    def _bindings_of(self, cache: RaggedCache, visible: int) -> CacheBindings:
        """Return the bindings to a cache, with room for `visible` positions; made anew where memory moved."""
        bindings = self._bindings.get(cache)
        if bindings is None or not bindings.fits(cache, visible):
            own = self.torch.blocks[0].self_attention
            cache.reserve(visible, own.kv_heads, own.head_dim)
            bindings = self._bindings[cache] = CacheBindings.of(cache, self._reserve_tables(visible), self._tables)
        return bindings

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
