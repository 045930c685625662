"""One model over a ragged batch: a KV cache, a cursor per row, and forward passes over what each row has not read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from transformers import PreTrainedModel

from wheels.decoding.models.backends import decoder_for
from wheels.decoding.models.cache import RaggedCache, RowKeyValues
from wheels.decoding.models.forward_batches import CHUNK, OVERHEAD, ForwardBatch, plan_forward_batches
from wheels.decoding.models.head_inputs import HeadInputs
from wheels.decoding.models.inputs import AttentionInputs, LogitsToKeep, Results
from wheels.decoding.models.library import LibraryForward
from wheels.decoding.models.output import Output, joined
from wheels.decoding.models.sources import Encoder, cross_projections, encode
from wheels.errors import WheelsError
from wheels.models.devices import device_of
from wheels.output.notices import warn_once
from wheels.policy.head import DeferralHead


class Backend(Protocol):
    """What runs a model's forward passes, on the runner's KV cache."""

    kind: str
    """Of its passes over texts (`Pass`)."""
    encoder_kind: str
    """Of its passes over sources."""
    name: str
    """Whose operators run: `transformers`, `torch`, `onnx` or `llama.cpp`."""

    @property
    def encoder(self) -> Encoder | None:
        """What reads the sources; None in a causal model."""

    def forward(
        self, tokens_RK: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs, keep: LogitsToKeep
    ) -> Results:
        """Read the new tokens; return logits and hidden states where they are kept, and the gain of a head."""


@dataclass(frozen=True)
class Pass:
    """One forward pass, as it ran."""

    rows: int
    """Rows that took part."""
    width: int
    """The most tokens that one of them read; of sources: the longest."""
    context: int
    """Positions that the furthest row had read before."""
    tokens: int
    """Tokens that were computed: `rows x width`, or fewer in a packed pass."""
    kind: str = "decode"
    """`decode` by the library, `lean` on the fast path; `encode` and `lean-encode` for sources."""
    seconds: float = 0.0
    """Within the model's forward; 0 on devices that run asynchronously."""


@dataclass(frozen=True, eq=False)
class RowState:
    """All that a runner keeps of one row, as copies."""

    source: Sequence[int]
    cursor: int
    """Tokens of the text that were read."""
    encoded: bool
    """Whether the source was."""
    kept: tuple[RowKeyValues, RowKeyValues]
    """Keys and values of the text and of the source."""


class Runner:
    """A model that reads `rows` texts, each at its own pace.

    A row's text is its prefix (the prompt of a causal model, the start token of an encoder-decoder) and what was
    generated. `read` brings rows up to date, however much each has not read: prefill and decode step are one thing.
    `rollback` moves cursors back.

    Args:
        model: A sequence-to-sequence or causal language model, in evaluation mode.
        rows: How many texts it holds at a time.
        vocab_size: Logits beyond it are cut off (padding of the vocabulary).
        chunk: Tokens that one forward pass reads at most.
        overhead: The fixed cost of a forward pass, in tokens (`wheels.decoding.models.costs`).
        fast: Whether a known family takes the fast path, with the weights that the model has now (`refresh`); False:
            always the library's forward pass.
        weights: What the fast path makes of a float32 model's weights: `float32`, `int8` or `bfloat16`.
        backend: What runs the fast path, `torch`, `onnx` or `llama.cpp`; None: as `use_backend` says.
        head: A deferral head, which a compiled pass computes too.
        hidden: Whether anybody looks at the hidden states; without, llama.cpp is faster and has none.

    Raises:
        WheelsError: where the model's family cannot be decoded at ragged lengths, or not with such weights.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: int,
        vocab_size: int,
        *,
        chunk: int = CHUNK,
        overhead: int = OVERHEAD,
        fast: bool = True,
        weights: str = "float32",
        backend: str | None = None,
        head: DeferralHead | None = None,
        hidden: bool = True,
    ) -> None:
        self.model, self.weights, self.wanted = model, weights, backend
        self.vocab_size = vocab_size
        self.chunk, self.overhead = chunk, overhead
        self.most_rows, self.encoder_chunk = rows, chunk
        """What one pass reads at most: less once a GPU had no memory for more."""
        self.cursor_B = torch.zeros(rows, dtype=torch.long, device=device_of(model))
        self.fast = fast
        self.head, self.hidden = head, hidden
        self._parameters: list[torch.nn.Parameter] = []
        self._counted = self._counts()
        self.refresh()
        cross = bool(model.config.is_encoder_decoder)
        layers = len(cross_projections(model)) if cross else model.config.get_text_config().num_hidden_layers
        self.cache = RaggedCache(layers, rows, cross=cross)
        self.journal: list[Pass] | None = None
        """Where a list is put here, every forward pass is noted in it."""
        self.encode_all = False
        """Whether all new sources are encoded as soon as one of them is needed: in fewer passes, if most are needed."""
        self._sources: list[Sequence[int]] = [()] * rows
        self._encoded = [False] * rows
        self.told = HeadInputs(rows) if head is not None and self.backend.name == "onnx" else None
        """What a head within a compiled pass is told."""

    def refresh(self, *, quick: bool = False) -> None:
        """Read with the weights that the model has now; what was read before stays as it was.

        Args:
            quick: Look only at the weights' counts of changes, which writes through `.data` leave alone; in
                microseconds, so that it can be asked before every pass.
        """
        if quick and self._counts() == self._counted:
            return
        # Weights made in inference mode have no count; outside of it they cannot be changed in place.
        self._parameters = [weight for weight in self.model.parameters() if not weight.is_inference()]
        self._counted = self._counts()
        fast = None
        if self.fast:
            fast = decoder_for(self.model, self.weights, self.wanted, self.head, self.vocab_size)
        if fast is None and self.weights != "float32":
            raise WheelsError(
                f"weights {self.weights!r} are for T5, Marian, BART, Llama, Qwen and GPT-2 models in dtype float32 on "
                f"a cpu, not in training and of a gigabyte at most; got {type(self.model).__name__}, "
                f"{str(self.model.dtype).removeprefix('torch.')}, {self.model.device}; use weights float32"
            )
        self.backend: Backend = fast or self.library
        self.step = getattr(self.backend, "step", None)
        """Reads one token in each row, where the backend has that apart."""

    @cached_property
    def library(self) -> LibraryForward:
        """The library's forward pass, made where the model has no fast path: for one sentence that takes long."""
        return LibraryForward(self.model)

    @property
    def runs_on(self) -> str:
        """What runs the passes, and on which weights, such as `onnx int8`."""
        plain = self.weights if self.weights != "float32" else str(self.model.dtype).removeprefix("torch.")
        return f"{self.backend.name} {getattr(self.backend, 'number_format', plain)}"

    def _counts(self) -> tuple[bool, int]:
        return self.model.training, sum([weight._version for weight in self._parameters])

    def admit(self, rows: Sequence[int], sources: Sequence[Sequence[int]]) -> None:
        """Give `rows` new texts; `sources` are what the encoder of a sequence-to-sequence model reads (else unused).

        Nothing is computed: the encoder runs when the row is first read, so a row that never calls costs nothing.
        """
        for row, source in zip(rows, sources, strict=True):
            self._sources[row] = source
            self._encoded[row] = False
            if self.told is not None:
                self.told.admit(row, source)
        self.cursor_B[list(rows)] = 0

    def snapshot(self, row: int) -> RowState:
        """Copy the state of one row, its keys and values included."""
        source, cursor, encoded = self._sources[row], int(self.cursor_B[row]), self._encoded[row]
        return RowState(source, cursor, encoded, self.cache.copy_row(row, cursor, len(source) if encoded else 0))

    def restore(self, rows: Sequence[int], states: Sequence[RowState]) -> None:
        """Let `rows` go on where the states were taken; nothing is read again."""
        self.admit(rows, [state.source for state in states])
        for row, state in zip(rows, states, strict=True):
            self._encoded[row] = state.encoded
        self.cursor_B[list(rows)] = torch.tensor([state.cursor for state in states], device=self.cursor_B.device)
        self.cache.restore_rows(list(rows), [state.kept for state in states])

    def read(
        self,
        rows_R: torch.Tensor | None,
        tokens_BT: torch.Tensor,
        length_B: torch.Tensor,
        keep_R: torch.Tensor | None = None,
    ) -> Output:
        """Read `tokens_BT[row, cursor:length]` of each row, and move the cursors there.

        It takes one forward pass, or the cheapest few where the rows' amounts differ
        (`wheels.decoding.models.forward_batches`).

        Args:
            rows_R: The rows that read, int64; None for all. Each has at least one token to read.
            tokens_BT: The texts of all rows, prefix included, padded on the right.
            length_B: The length of each row's text.
            keep_R: How many of each row's last positions need logits; None: the last one alone.

        Tensors may be on another device than the model: they are brought there, and what it computes comes back.

        Returns:
            Logits after the last token, `[R, V]`; or `[R, max(keep), V]`, where index 0 is the first position kept of
            each row, and a row that keeps fewer repeats its last.
        """
        home, device = tokens_BT.device, self.cursor_B.device
        if home != device:
            rows_R, keep_R = (None if each is None else each.to(device) for each in (rows_R, keep_R))
            there = self.read(rows_R, tokens_BT.to(device), length_B.to(device), keep_R)
            return there.map(lambda result_RX: result_RX.to(home))
        rows = list(range(len(self._encoded))) if rows_R is None else rows_R.tolist()
        if self.backend.encoder is not None:
            self._encode(rows)
        cursor_R, length_R = (self.cursor_B, length_B) if rows_R is None else (self.cursor_B[rows_R], length_B[rows_R])
        firsts = cursor_R.tolist()
        counts = [length - first for length, first in zip(length_R.tolist(), firsts, strict=True)]
        assert min(counts) > 0, "a row has nothing to read"
        if self.step is not None and keep_R is None and max(counts) == 1 and len(rows) <= self.chunk:
            output = self._step(rows, rows_R, firsts, tokens_BT)
            if output is not None:
                return output
        wanted = None if keep_R is None else keep_R.tolist()
        batches = list(plan_forward_batches(counts, overhead=self.overhead, chunk=self.chunk, wanted=wanted))
        if len(batches) == 1:
            output = self._read_batch(rows, rows_R, firsts, counts, tokens_BT, keep_R)
        else:
            output = self._read_batches(batches, rows_R, tokens_BT, keep_R)
        return output if keep_R is not None else output.map(lambda result_RWX: result_RWX[:, -1])

    def rollback(self, rows_R: torch.Tensor, length_R: torch.Tensor) -> None:
        """Forget what `rows_R` read at and beyond `length_R`: the cursor moves, nothing is copied."""
        rows_R, length_R = rows_R.to(self.cursor_B.device), length_R.to(self.cursor_B.device)
        self.cursor_B[rows_R] = torch.minimum(self.cursor_B[rows_R], length_R)

    def _step(
        self, rows: list[int], rows_R: torch.Tensor | None, firsts: list[int], tokens_BT: torch.Tensor
    ) -> Output | None:
        """Read one token in each row, and move the cursors; None where the backend leaves it to a general pass."""
        assert self.step is not None
        start = time.perf_counter()
        source_lengths = [len(self._sources[row]) for row in rows] if self.backend.encoder is not None else []
        results = self.step(rows, rows_R, firsts, tokens_BT, self.cursor_B, source_lengths, self.cache, self.told)
        if results is None:
            return None
        self._note(len(rows), 1, max(firsts), len(rows), self.backend.kind, start)
        self.cursor_B.numpy()[rows] += 1
        logits_RV, *others = results
        return Output(logits_RV[:, : self.vocab_size], *others)

    def _read_batches(
        self,
        batches: list[ForwardBatch],
        rows_R: torch.Tensor | None,
        tokens_BT: torch.Tensor,
        keep_R: torch.Tensor | None,
    ) -> Output:
        """Run several forward passes, and put their outputs back into the order of the request."""
        parts: list[tuple[list[int], Output]] = []
        for batch in batches:
            index = torch.tensor(batch.rows, device=self.cursor_B.device)
            some_R = index if rows_R is None else rows_R[index]
            some_keep_R = keep_R[index] if keep_R is not None and batch.final else None
            firsts = self.cursor_B[some_R].tolist()
            part = self._read_batch(some_R.tolist(), some_R, firsts, batch.counts, tokens_BT, some_keep_R)
            if batch.final:
                parts.append((batch.rows, part))
        return joined(parts)

    def _read_batch(
        self,
        rows: list[int],
        rows_R: torch.Tensor | None,
        firsts: list[int],
        counts: list[int],
        tokens_BT: torch.Tensor,
        keep_R: torch.Tensor | None,
    ) -> Output:
        """Run one forward pass over rows whose cursors are at `firsts`, and move their cursors.

        Where a GPU has no memory for it, its halves are run, and from then on no pass has more rows than these.
        """
        if len(rows) <= self.most_rows:
            try:
                return self._one_pass(rows, rows_R, firsts, counts, tokens_BT, keep_R)
            except torch.cuda.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                self.most_rows = self._fewer(len(rows) // 2, "rows")
        middle, index_R, parts = len(rows) // 2, rows_R, []
        if index_R is None:
            index_R = torch.arange(len(rows), device=self.cursor_B.device)
        for half in (slice(0, middle), slice(middle, len(rows))):
            kept = None if keep_R is None else keep_R[half]
            part = self._read_batch(rows[half], index_R[half], firsts[half], counts[half], tokens_BT, kept)
            parts.append((list(range(len(rows)))[half], part))
        return joined(parts)

    def _fewer(self, count: int, what: str) -> int:
        """Say that passes are smaller from now on, and free what the failed one left."""
        warn_once(f"the GPU's memory is full: a pass reads at most {count:,} {what} from now on")
        torch.cuda.empty_cache()
        return count

    def _one_pass(
        self,
        rows: list[int],
        rows_R: torch.Tensor | None,
        firsts: list[int],
        counts: list[int],
        tokens_BT: torch.Tensor,
        keep_R: torch.Tensor | None,
    ) -> Output:
        """Run one forward pass as it is."""
        first_R = self.cursor_B if rows_R is None else self.cursor_B[rows_R]
        source_lengths = [len(self._sources[row]) for row in rows] if self.backend.encoder is not None else []
        inputs = AttentionInputs.of(rows, rows_R, firsts, first_R, counts, source_lengths)
        inputs.cursor_B, inputs.told = self.cursor_B, self.told
        tokens_RK = inputs.tokens(tokens_BT)
        start = time.perf_counter()
        output = self._forward(tokens_RK, inputs, keep_R)
        self._note(len(rows), max(counts), max(firsts), tokens_RK.numel(), self.backend.kind, start)
        after_R = inputs.positions_RK[:, -1] + 1
        if rows_R is None:
            self.cursor_B = after_R
        else:
            self.cursor_B[rows_R] = after_R
        return output

    @torch.no_grad()
    def _forward(self, tokens_RK: torch.Tensor, inputs: AttentionInputs, keep_R: torch.Tensor | None) -> Output:
        """Run one forward pass, on the fast path or by the library."""
        logits_RWV, hidden_RWD, *gain = self.backend.forward(
            tokens_RK, self.cache, inputs, LogitsToKeep(inputs, keep_R, self.hidden)
        )
        return Output(logits_RWV[..., : self.vocab_size].float(), hidden_RWD.float(), *gain)

    def _encode(self, rows: Sequence[int]) -> None:
        """Encode the sources of those of `rows` that were not encoded yet."""
        new = [row for row in rows if not self._encoded[row]]
        if not new:
            return
        if self.encode_all:
            new = [row for row, encoded in enumerate(self._encoded) if not encoded]
        assert self.backend.encoder is not None, "a causal model has no sources"
        try:
            self._encode_passes(self.backend.encoder, new)
        except torch.cuda.OutOfMemoryError:
            if self.encoder_chunk <= max(len(self._sources[row]) for row in new):
                raise  # each of them has a pass of its own
            self.encoder_chunk = self._fewer(self.encoder_chunk // 2, "tokens of sources")
            self._encode(rows)

    def _encode_passes(self, encoder: Encoder, new: list[int]) -> None:
        """Encode the sources of these rows."""
        pad, device = self.model.config.pad_token_id or 0, self.cursor_B.device
        sources = [list(self._sources[row]) for row in new]
        start = time.perf_counter()
        for indices, projected in encode(encoder, sources, pad, self.encoder_chunk, device):
            self.cache.fill(torch.tensor([new[index] for index in indices], device=device), projected)
            for index in indices:
                self._encoded[new[index]] = True
            width = max(len(sources[index]) for index in indices)
            self._note(len(indices), width, 0, len(indices) * width, self.backend.encoder_kind, start)
            start = time.perf_counter()

    def _note(self, rows: int, width: int, context: int, tokens: int, kind: str, start: float) -> None:
        """Note a forward pass that began at `start` in the journal, if there is one."""
        if self.journal is not None:
            seconds = time.perf_counter() - start if self.cursor_B.device.type == "cpu" else 0.0
            self.journal.append(Pass(rows, width, context, tokens, kind, seconds))
