"""ForwardTimer forward passes, timed one after the other: of the library with its own cache, or the engine's fast ones.

What a decode costs beyond the sum of the passes that it ran is the scheduler's; what they cost beyond the machine's
bandwidth and peak is the library's, or ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from wheels.decoding.models.auto import Choice, chosen
from wheels.decoding.models.cache import cache_argument
from wheels.decoding.models.linear import make_linear
from wheels.decoding.models.registry import BYTES
from wheels.decoding.models.runner import Runner
from wheels.decoding.models.sources import cross_projections
from wheels.models.devices import device_of
from wheels.models.pair import Pair

GRID = 32
"""Contexts are rounded up to a multiple of this, so that few shapes are left to time."""
LEAST, MOST, SECONDS = 3, 10, 0.02
"""Repetitions of a forward pass: at least, at most, and the time after which the least are enough."""


ENCODES = ("encode", "lean-encode")
"""Kinds of passes over sources: in the library, and the engine's own."""


class Shape(NamedTuple):
    """What the time of a forward pass depends on."""

    model: str
    """`student` or `teacher`."""
    kind: str
    """`decode` in the library, `lean` on the fast path (`wheels.decoding.models.fast`); for sources `encode`
    and `lean-encode`."""
    rows: int
    width: int
    """New tokens of each row."""
    context: int
    """Positions that were read before, on the grid."""
    head: int
    """Last positions that are scored."""

    @property
    def encodes(self) -> bool:
        """Whether it reads sources."""
        return self.kind in ENCODES


def on_grid(context: int) -> int:
    """Round a context up to the grid."""
    return -(-context // GRID) * GRID


def best_seconds(
    work: Callable[[], object],
    device: torch.device,
    after: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds of the best of several runs of `work`; `after` puts things back, and is not timed."""
    times: list[float] = []
    while len(times) < LEAST or (sum(times) < SECONDS and len(times) < MOST):
        wait_for(device)
        start = clock()
        work()
        wait_for(device)
        times.append(clock() - start)
        if after is not None:
            after()
    return min(times)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Machine:
    """What the device can do at best, in the models' number format."""

    bandwidth: float
    """Bytes a second: a large copy, read and written."""
    peak: float
    """Floating-point operations a second: a square matrix product, by torch's own kernel or by oneDNN's."""

    @classmethod
    @torch.no_grad()
    def measure(
        cls, device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
    ) -> Machine:
        """Time a copy of more than the caches hold, and a matrix product."""
        on_cpu = device.type == "cpu"
        # Random, for some processors multiply zeros faster.
        size = 1024 if on_cpu else 8192
        matrix = torch.rand(size, size, device=device).to(dtype)
        product, packed = torch.empty_like(matrix), make_linear(matrix)
        # Whichever library is faster here: a bound that one of them beats is none.
        squares = (lambda: torch.matmul(matrix, matrix, out=product), lambda: packed(matrix))
        flops = min(best_seconds(square, device, clock=clock) for square in squares)
        large = torch.ones((256 if on_cpu else 2048) * 2**20 // matrix.element_size(), device=device, dtype=dtype)
        other = torch.empty_like(large)
        other.copy_(large)
        copied = best_seconds(lambda: other.copy_(large), device, clock=clock)
        return cls(2 * large.numel() * large.element_size() / copied, 2 * size**3 / flops)


@dataclass
class Cost:
    """What a forward pass must do: for the bound of the machine."""

    moved: float
    """Bytes of weights, keys and values."""
    flops: float


@dataclass
class ForwardTimer:
    """The bare forward passes of a pair, each timed once.

    Args:
        pair: Student and teacher.
        source: Tokens of a source that the decoder of a sequence-to-sequence model attends to.
        known: What was timed before.
    """

    pair: Pair
    source: int
    known: dict[Shape, float] = field(default_factory=dict)
    _state: tuple[tuple[object, ...], Any] | None = None
    """The context that was read last, kept for the next shape with the same one."""

    def seconds(self, shape: Shape) -> float:
        """Return the seconds of a forward pass, timed now where it was not yet."""
        if shape not in self.known:
            timed = self._encode if shape.encodes else self._fast if shape.kind == "lean" else self._decode
            self.known[shape] = timed(shape)
        return self.known[shape]

    def measure(self, shapes: Iterable[Shape], progress: Callable[[], object]) -> None:
        """Time those of `shapes` that are new; like contexts together."""
        for shape in sorted(set(shapes), key=lambda s: (s.model, s.kind, s.rows, s.context, s.width, s.head)):
            self.seconds(shape)
            progress()
        self._state = None

    def _encode(self, shape: Shape) -> float:
        """Time the encoder over sources, and the keys and values that the decoder reads of it."""
        model = self._model(shape)
        ids, seen = _ids(model, shape.rows, shape.width), _seen(model, shape.rows, shape.width)
        fast = shape.kind == "lean-encode"
        choice = self._choice(shape)._asdict()
        encoder = Runner(model, 1, self.pair.vocab_size, fast=fast, **choice).backend.encoder
        assert encoder is not None, "a model with an encoder"
        encoder(ids, seen)
        return best_seconds(lambda: encoder(ids, seen), device_of(model))

    @torch.no_grad()
    def _decode(self, shape: Shape) -> float:
        """Time a decoder pass behind a context that was read before."""
        model, shape = self._model(shape), self._with_room(shape)
        forward, cache = self._context(model, shape)
        ids = _ids(model, shape.rows, shape.width)
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache

        def put_back() -> None:
            if shape.context:
                own.crop(-shape.width)
            else:
                own.layers.clear()  # nothing would be left of a crop: the next forward makes new ones

        forward(ids, shape.head)
        put_back()
        return best_seconds(lambda: forward(ids, shape.head), device_of(model), put_back)

    def _with_room(self, shape: Shape) -> Shape:
        """Return a shape whose context, on the grid, does not leave the model's room."""
        limit = self.pair.source_limit
        return shape if limit is None else shape._replace(context=max(0, min(shape.context, limit - shape.width)))

    def _fast(self, shape: Shape) -> float:
        """Time a fast pass behind a context that was read before: on a CPU what lies within the forward alone."""
        model, shape = self._model(shape), self._with_room(shape)
        whole = 2**30  # tokens: nothing is read in parts
        choice = self._choice(shape)._asdict()
        runner = Runner(model, shape.rows, self.pair.vocab_size, chunk=whole, overhead=whole, **choice)
        assert runner.backend is not runner.library, "a model that has a fast path"
        rows_B = torch.arange(shape.rows, device=device_of(model))
        before_B = torch.full_like(rows_B, shape.context)
        after_B = before_B + shape.width
        wanted_B = torch.full_like(rows_B, shape.head) if shape.head > 1 else None
        tokens_BT = _ids(model, shape.rows, shape.context + shape.width)
        runner.admit(range(shape.rows), _ids(model, shape.rows, max(self.source, 1)).tolist())

        def work() -> None:
            runner.read(None, tokens_BT, after_B, wanted_B)

        def put_back() -> None:
            runner.rollback(rows_B, before_B)

        work()  # of the context too
        put_back()
        runner.journal = []
        taken = best_seconds(work, device_of(model), put_back)
        return min(each.seconds for each in runner.journal) or taken

    def _context(self, model: PreTrainedModel, shape: Shape) -> tuple[Callable[[torch.Tensor, int], object], Any]:
        """Return a forward pass over new tokens, and its cache, in which `context` positions were read."""
        name = (shape.model, shape.rows, shape.context)
        if self._state is None or self._state[0] != name:
            cache: Any = DynamicCache()
            forward: Callable[[torch.Tensor, int], object]
            if self.pair.is_seq2seq:
                cache = EncoderDecoderCache(cache, DynamicCache())
                forward = _Decoder(model, cache, shape.rows, self.source)
            else:
                forward = _Causal(model, cache)
            if shape.context:
                forward(_ids(model, shape.rows, shape.context), 1)
            elif self.pair.is_seq2seq:
                forward(_ids(model, shape.rows, 1), 1)  # so that the source's keys and values are there
                cache.self_attention_cache.layers.clear()
            self._state = (name, (forward, cache))
        state: tuple[Callable[[torch.Tensor, int], object], Any] = self._state[1]
        return state

    def _model(self, shape: Shape) -> PreTrainedModel:
        """Return the model of a shape."""
        return self.pair.student if shape.model == "student" else self.pair.teacher

    def _choice(self, shape: Shape) -> Choice:
        """Return what runs a shape of the engine's own passes; the library's is torch's, in float32."""
        if not shape.kind.startswith("lean"):
            return Choice("torch", "float32")
        weights = self.pair.student_weights if shape.model == "student" else self.pair.teacher_weights
        return chosen(self._model(shape), weights, shape.rows, self.pair.vocab_size)

    def cost(self, shape: Shape) -> Cost:
        """Compute what a decoder pass must move and calculate; each weight is read once."""
        model = self._model(shape)
        body, head = _weights(model, cross=self.pair.is_seq2seq)
        each, weights, entries = model.dtype.itemsize, self._choice(shape).weights, _entries(model)
        of_body, of_head = BYTES.get(weights, each), BYTES["int8"] if weights == "int8" else each
        positions = shape.context + shape.width + (self.source if self.pair.is_seq2seq else 0)
        moved = of_body * body + of_head * head + each * shape.rows * positions * entries
        # A key and a value of d numbers cost a query 4 d operations, which is twice the 2 d entries.
        flops = 2 * shape.rows * (shape.width * body + shape.head * head + shape.width * positions * entries)
        return Cost(moved, flops)


class _Causal:
    """The forward pass of a causal model."""

    def __init__(self, model: PreTrainedModel, cache: Any) -> None:
        self.body: Any = model.base_model
        self.cache, self.head_of = {cache_argument(type(self.body)): cache}, model.get_output_embeddings()

    def __call__(self, ids_RK: torch.Tensor, head: int) -> object:
        """Read tokens, and score the last ones.

        These are laid out in two dimensions: one position in three, as `logits_to_keep` makes it, is multiplied twenty
        times slower in bfloat16 on some processors.
        """
        output = self.body(input_ids=ids_RK, **self.cache, use_cache=True)
        return self.head_of(output.last_hidden_state[:, -head:].flatten(0, 1))


class _Decoder:
    """The decoder of a sequence-to-sequence model, and its output head on the last positions."""

    def __init__(self, model: PreTrainedModel, cache: Any, rows: int, source: int) -> None:
        self.decoder: Any = model.get_decoder()
        self.cache, self.head_of = {cache_argument(type(self.decoder)): cache}, model.get_output_embeddings()
        states = model.get_encoder()(input_ids=_ids(model, rows, source)).last_hidden_state
        self.source = {"encoder_hidden_states": states, "encoder_attention_mask": _seen(model, rows, source)}

    def __call__(self, ids_RK: torch.Tensor, head: int) -> object:
        """Read tokens, and score the last ones."""
        output = self.decoder(input_ids=ids_RK, **self.cache, use_cache=True, **self.source)
        return self.head_of(output.last_hidden_state[:, -head:].flatten(0, 1))


def _ids(model: PreTrainedModel, rows: int, width: int) -> torch.Tensor:
    """Return tokens to read, different ones, `[rows, width]`."""
    table: Any = model.get_input_embeddings()
    return (torch.arange(rows * width, device=device_of(model)) % (table.weight.shape[0] - 1) + 1).view(rows, width)


def _seen(model: PreTrainedModel, rows: int, width: int) -> torch.Tensor:
    """Return the mask of sources without padding."""
    return torch.ones(rows, width, dtype=torch.long, device=device_of(model))


def _weights(model: PreTrainedModel, *, cross: bool) -> tuple[int, int]:
    """Return the numbers that a decoder pass reads: of its layers, and of its output head.

    The input embedding is looked up, not read; the source's keys and values were computed before.
    """
    decoder: Any = model.get_decoder()
    skipped = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for projection in cross_projections(model) if cross else []:
        skipped |= {id(weight) for part in (projection.key, projection.value) for weight in part.parameters()}
    body = sum(weight.numel() for weight in decoder.parameters() if id(weight) not in skipped and weight.dim() > 1)
    return body, int(model.get_output_embeddings().weight.numel())


def _entries(model: PreTrainedModel) -> int:
    """Return the numbers that a decoder keeps of a position: keys and values of every layer."""
    config: Any = model.config.get_text_config(decoder=True)
    heads = getattr(config, "decoder_attention_heads", None) or config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "d_kv", None) or getattr(config, "head_dim", None) or config.hidden_size // heads
    # A configuration of text alone forgets how many layers a decoder has that differs from its encoder.
    layers = len(cross_projections(model)) if model.config.is_encoder_decoder else config.num_hidden_layers
    return int(2 * kept * size * layers)
