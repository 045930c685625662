"""One model, its cache, and a cursor per row: it reads what a row has not read yet, and tells what comes next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from operator import add

import torch
from transformers import PreTrainedModel

from wheels.decoding.models.attention import AttentionInputs, RowInputs, attend_per_row_is_faster
from wheels.decoding.models.cache import CacheWrite, RaggedCache, cache_argument
from wheels.decoding.models.forward_batches import CHUNK, OVERHEAD, ForwardBatch, plan_forward_batches
from wheels.decoding.models.packing import Packing, configs_of, packed_attention
from wheels.decoding.models.positions import positions_for
from wheels.decoding.models.registry import fast_decoder_for
from wheels.decoding.models.sources import Encoder, LibraryEncoder, cross_projections, encode


@dataclass(frozen=True)
class Output:
    """What a model says after the last token that each row read, or after several of the last ones."""

    logits_RV: torch.Tensor
    """Scores of the next token, float32, over the pair's common vocabulary; `[R, W, V]` where W were wanted."""
    hidden_RD: torch.Tensor
    """What the output head read to make them: the last hidden state, float32; `[R, W, D]` where W were wanted."""


@dataclass(frozen=True)
class Pass:
    """One forward pass, as it was run."""

    rows: int
    """Rows that took part."""
    width: int
    """The most tokens that one of them read; of a source: all of them."""
    context: int
    """Positions that the furthest row had read before it."""
    tokens: int
    """Tokens that went through it: `rows x width`, or fewer where rows read different amounts."""
    kind: str = "decode"
    """`decode` in the library, `lean` in the engine's own pass; `encode` and `lean-encode` for the sources."""
    seconds: float = 0.0
    """Within the model's forward; 0 on devices that run on by themselves."""


class Runner:
    """A model that reads `rows` texts at their own pace.

    A row's text is its prefix (the prompt of a causal model, the start token of an encoder-decoder) and what was
    generated. `read` brings rows up to date over all that each of them has not read, however much that is; `rollback`
    takes tokens back by moving the cursor.

    Args:
        model: A sequence-to-sequence or causal language model, in evaluation mode.
        rows: How many texts it holds at a time.
        vocab_size: Scores beyond it are cut off (padding of the vocabulary).
        chunk: Tokens that one forward pass reads at most.
        overhead: The cost of a forward pass beside its tokens, in tokens (`wheels.decoding.models.costs`).
        fast: Whether a model of a known family is read without its modules (`wheels.decoding.models.registry`), with
            the weights that it has now; False: the library's forward pass, for a model that is trained meanwhile.

    Raises:
        WheelsError: where the model's family cannot be decoded at ragged lengths.
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
    ) -> None:
        self.model = model
        self.fast_decoder = fast_decoder_for(model) if fast else None
        self.vocab_size = vocab_size
        self.chunk, self.overhead = chunk, overhead
        self.cursor_B = torch.zeros(rows, dtype=torch.long, device=model.device)
        self.cross = bool(model.config.is_encoder_decoder)
        self.positions = positions_for(model)
        self.configs = configs_of(model)
        self._cache_name = cache_argument(type(model))
        self.encoder: Encoder | None = None
        if self.cross:
            self.encoder = LibraryEncoder(model) if self.fast_decoder is None else self.fast_decoder.encoder
        config = model.config.get_text_config()
        layers = len(cross_projections(model)) if self.cross else config.num_hidden_layers
        self.cache = RaggedCache(layers, rows, cross=self.cross)
        self.journal: list[Pass] | None = None
        """Where a list is put here, every forward pass is noted in it."""
        self._sources: list[Sequence[int]] = [()] * rows
        self._source_length_B = torch.zeros_like(self.cursor_B)
        self._known = [False] * rows
        self._no_states = torch.zeros(1, 1, config.hidden_size, dtype=model.dtype, device=model.device)

    def admit(self, rows: Sequence[int], sources: Sequence[Sequence[int]]) -> None:
        """Give `rows` new texts; `sources` are what the encoder of a sequence-to-sequence model reads (else unused).

        Nothing is computed: the encoder runs when the row is first read, so a row that never calls costs nothing.
        """
        for row, source in zip(rows, sources, strict=True):
            self._sources[row] = source
            self._known[row] = False
        self.cursor_B[list(rows)] = 0

    def read(
        self,
        rows_R: torch.Tensor | None,
        tokens_BT: torch.Tensor,
        length_B: torch.Tensor,
        logits_to_keep_R: torch.Tensor | None = None,
    ) -> Output:
        """Read `tokens_BT[row, cursor:length]` of each row, and move the cursors there.

        Rows are read in one pass, or in as many as cost least where their amounts differ
        (`wheels.decoding.models.forward_batches`).

        Args:
            rows_R: The rows that read, int64; None for all. Each has at least one token to read.
            tokens_BT: The texts of all rows, prefix included, padded on the right.
            length_B: The length of each row's text.
            logits_to_keep_R: How many of the last positions of each row are to be scored; None: the last one alone.

        Returns:
            Scores after the last token, `[R, V]`; or `[R, max(wanted), V]`, where index 0 is the first position wanted
            of each row (what lies beyond a row's own number repeats its last).
        """
        if self.cross:
            self._encode(range(len(self._known)) if rows_R is None else rows_R.tolist())
        cursor_R, length_R = (self.cursor_B, length_B) if rows_R is None else (self.cursor_B[rows_R], length_B[rows_R])
        firsts = cursor_R.tolist()
        counts = [length - first for length, first in zip(length_R.tolist(), firsts, strict=True)]
        assert min(counts) > 0, "a row has nothing to read"
        wanted = None if logits_to_keep_R is None else logits_to_keep_R.tolist()
        batches = list(plan_forward_batches(counts, overhead=self.overhead, chunk=self.chunk, wanted=wanted))
        if len(batches) == 1:
            return self._read_batch(rows_R, batches[0], firsts, tokens_BT, logits_to_keep_R)
        output: list[tuple[list[int], Output]] = []
        for batch in batches:
            index = torch.tensor(batch.rows, device=cursor_R.device)
            some_wanted_R = logits_to_keep_R[index] if logits_to_keep_R is not None and batch.final else None
            some_R, some_firsts = index if rows_R is None else rows_R[index], [firsts[row] for row in batch.rows]
            part = self._read_batch(some_R, batch, some_firsts, tokens_BT, some_wanted_R)
            for row, count in zip(batch.rows, batch.counts, strict=True):
                firsts[row] += count
            if batch.final:
                output.append((batch.rows, part))
        return _joined(output, len(counts))

    def rollback(self, rows_R: torch.Tensor, length_R: torch.Tensor) -> None:
        """Forget what `rows_R` read at and beyond `length_R`: the cursor moves, nothing is copied."""
        self.cursor_B[rows_R] = torch.minimum(self.cursor_B[rows_R], length_R)

    def _read_batch(
        self,
        rows_R: torch.Tensor | None,
        batch: ForwardBatch,
        firsts: list[int],
        tokens_BT: torch.Tensor,
        logits_to_keep_R: torch.Tensor | None,
    ) -> Output:
        """Run one forward pass over rows that stand at `firsts`, and move their cursors."""
        cursor_R = self.cursor_B if rows_R is None else self.cursor_B[rows_R]
        width, device = max(batch.counts), cursor_R.device
        positions_RK, packing, count_R = cursor_R[:, None], None, None
        if width > 1:
            positions_RK = positions_RK + torch.arange(width, device=device)
            count_R = torch.tensor(batch.counts, device=device)
            if min(batch.counts) < width:
                packing = Packing.of(batch.counts, device)
                # What a row reads less than another is never looked at; its position must only be one that there is.
                positions_RK = positions_RK.minimum((cursor_R + count_R - 1)[:, None])
        tokens_RK = tokens_BT.gather(1, positions_RK) if rows_R is None else tokens_BT[rows_R[:, None], positions_RK]
        visible = max(map(add, firsts, batch.counts))
        if packing is None:
            common = firsts[0] if min(firsts) == max(firsts) else None
            write = CacheWrite(rows_R, positions_RK, None, common, visible)
        else:
            tokens_RK = packing.pack(tokens_RK)
            owner_N = packing.row_N if rows_R is None else rows_R[packing.row_N]
            write = CacheWrite(rows_R, packing.pack(positions_RK), owner_N, None, visible)
        start = time.perf_counter()
        output = self._forward(tokens_RK, positions_RK, write, _LogitsToKeep(count_R, logits_to_keep_R, packing))
        if self.journal is not None:
            seconds = self._since(start)
            kind = "decode" if self.fast_decoder is None else "lean"
            self.journal.append(Pass(len(firsts), width, max(firsts), tokens_RK.numel(), kind, seconds))
        after_R = positions_RK[:, -1] + 1
        if rows_R is None:
            self.cursor_B = after_R
        else:
            self.cursor_B[rows_R] = after_R
        return output

    @torch.no_grad()
    def _forward(
        self, tokens_RK: torch.Tensor, positions_RK: torch.Tensor, write: CacheWrite, wanted: _LogitsToKeep
    ) -> Output:
        """Run one forward pass: a fast one, where there is one for the model, or the library's."""
        if self.fast_decoder is None:
            logits_RWV, hidden_RWD = self._library(tokens_RK, positions_RK, write, wanted)
        else:
            source, source_RS = self._sources_seen(write.rows_R) if self.cross else (0, None)
            write.whole = attend_per_row_is_faster(
                write, wanted.packing, self.fast_decoder.key_size, self._no_states.dtype, source
            )
            each_row = self._row_inputs(write, positions_RK, wanted) if write.whole else None
            self.cache.prepare(write, source_visible=source)
            inputs = AttentionInputs(write, positions_RK, wanted.packing, source_RS, each_row)
            hidden_ND = self.fast_decoder(tokens_RK.reshape(-1), self.cache, inputs)
            hidden_RWD = wanted.of(hidden_ND.view(*tokens_RK.shape, -1))
            # In two dimensions: in bfloat16 one position in three is multiplied twenty times slower on some processors.
            logits_RWV = self.fast_decoder.head(hidden_RWD.flatten(0, 1)).view(*hidden_RWD.shape[:2], -1)
        logits_RWV, hidden_RWD = logits_RWV[..., : self.vocab_size].float(), hidden_RWD.float()
        if wanted.logits_to_keep_R is None:
            return Output(logits_RWV[:, -1], hidden_RWD[:, -1])
        return Output(logits_RWV, hidden_RWD)

    def _row_inputs(self, write: CacheWrite, positions_RK: torch.Tensor, wanted: _LogitsToKeep) -> list[RowInputs]:
        """Return the rows of a pass in which each attends by itself."""
        assert wanted.count_R is not None, "rows that read different amounts"
        rows = list(range(len(positions_RK))) if write.rows_R is None else write.rows_R.tolist()
        lengths = (positions_RK[:, -1] + 1).tolist()
        sources = [len(self._sources[row]) for row in rows]
        return list(map(RowInputs, rows, wanted.count_R.tolist(), lengths, sources))

    def _library(
        self, tokens_RK: torch.Tensor, positions_RK: torch.Tensor, write: CacheWrite, wanted: _LogitsToKeep
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the library's own forward pass; return scores and hidden states where they are wanted."""
        packing, visible = wanted.packing, write.visible
        mask = self._mask(torch.arange(visible, device=positions_RK.device) <= positions_RK[:, :, None], packing)
        inputs = self._seen(write, packing) if self.cross else {self._cache_name: self.cache.prepare(write)}
        own, text = ("decoder_attention_mask", "decoder_input_ids") if self.cross else ("attention_mask", "input_ids")
        line = nullcontext() if packing is None else packed_attention(self.configs, packing)
        with line, self.positions(positions_RK, visible, packing) as extra, _Head(self.model, wanted) as head:
            logits = self.model(**{text: tokens_RK, own: mask}, **inputs, **extra, use_cache=True).logits
        return logits, head.hidden_RWD

    def _since(self, start: float) -> float:
        """Return the seconds of a forward pass that began at `start`; 0 on a device that runs on by itself."""
        return time.perf_counter() - start if self.cursor_B.device.type == "cpu" else 0.0

    def _mask(self, allowed_RKL: torch.Tensor, packing: Packing | None) -> torch.Tensor:
        """Return the 4-D mask in the form that the model's attention reads: True = attend, or 0 = attend."""
        allowed = allowed_RKL[:, None]
        if packing is not None or self.model.config._attn_implementation == "sdpa":
            return allowed
        dtype = self.model.dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
            ~allowed, torch.finfo(dtype).min
        )

    def _seen(self, write: CacheWrite, packing: Packing | None) -> dict[str, object]:
        """Return the decoder's view of the sources."""
        visible, seen_RS = self._sources_seen(write.rows_R)
        rows = len(self._known) if write.rows_R is None else len(write.rows_R)
        if seen_RS is None:
            seen_RS = torch.ones(rows, visible, dtype=torch.bool, device=self.cursor_B.device)
        return {
            self._cache_name: self.cache.prepare(write, source_visible=visible),
            # Its shape alone is read: what the layers attend to lies in the cache.
            "encoder_outputs": (self._no_states.expand(rows, visible, -1),),
            "attention_mask": self._mask(seen_RS[:, None], packing),
        }

    def _sources_seen(self, rows_R: torch.Tensor | None) -> tuple[int, torch.Tensor | None]:
        """Return the length of the longest source of some rows, and what each sees up to there; None: all of it."""
        length_R = self._source_length_B if rows_R is None else self._source_length_B[rows_R]
        lengths = length_R.tolist()
        visible = max(lengths)
        if min(lengths) == visible:
            return visible, None
        return visible, torch.arange(visible, device=length_R.device) < length_R[:, None]

    def _encode(self, rows: Sequence[int]) -> None:
        """Read the sources of those of `rows` that were never read."""
        new = [row for row in rows if not self._known[row]]
        if not new:
            return
        assert self.encoder is not None, "only a model with an encoder has sources apart"
        pad, device = self.model.config.pad_token_id or 0, self.cursor_B.device
        kind = "encode" if self.fast_decoder is None else "lean-encode"
        start = time.perf_counter()
        for indices, projected in encode(
            self.encoder, [list(self._sources[row]) for row in new], pad, self.chunk, device
        ):
            index = torch.tensor([new[place] for place in indices], device=device)
            self.cache.fill(index, projected)
            lengths = [len(self._sources[new[place]]) for place in indices]
            self._source_length_B[index] = torch.tensor(lengths, device=device)
            if self.journal is not None:
                width = max(lengths)
                self.journal.append(Pass(len(lengths), width, 0, len(lengths) * width, kind, self._since(start)))
            start = time.perf_counter()
        for row in new:
            self._known[row] = True


@dataclass(frozen=True)
class _LogitsToKeep:
    """Which positions of a pass are scored: the last one of each row, or the last `logits_to_keep_R`."""

    count_R: torch.Tensor | None
    logits_to_keep_R: torch.Tensor | None
    packing: Packing | None

    def of(self, hidden_RKD: torch.Tensor) -> torch.Tensor:
        """Return the hidden states there, `[R, W, D]`."""
        if self.count_R is None:  # one token in each row
            return hidden_RKD
        if self.logits_to_keep_R is None:
            place_RW = (self.count_R - 1)[:, None]
        else:
            step_W = torch.arange(int(self.logits_to_keep_R.max()), device=hidden_RKD.device)
            place_RW = ((self.count_R - self.logits_to_keep_R)[:, None] + step_W).minimum((self.count_R - 1)[:, None])
        if self.packing is not None:
            return hidden_RKD[0, self.packing.start_R[:, None] + place_RW]
        return hidden_RKD[torch.arange(len(hidden_RKD), device=hidden_RKD.device)[:, None], place_RW]


class _Head:
    """Within it the model's output head reads only the positions that are wanted, and what it read is kept."""

    hidden_RWD: torch.Tensor

    def __init__(self, model: PreTrainedModel, wanted: _LogitsToKeep) -> None:
        self.model, self.wanted = model, wanted

    def __enter__(self) -> _Head:
        self.handle = self.model.get_output_embeddings().register_forward_pre_hook(self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def _keep(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.hidden_RWD = self.wanted.of(inputs[0])
        return (self.hidden_RWD,)


def _joined(parts: list[tuple[list[int], Output]], rows: int) -> Output:
    """Put what several passes output back into the order of the request; repeats fill up shorter ones."""
    return Output(
        _placed([(places, part.logits_RV) for places, part in parts], rows),
        _placed([(places, part.hidden_RD) for places, part in parts], rows),
    )


def _placed(parts: list[tuple[list[int], torch.Tensor]], rows: int) -> torch.Tensor:
    first = parts[0][1]
    if first.dim() == 2:
        joined = first.new_empty(rows, first.shape[1])
        for places, part in parts:
            joined[places] = part
        return joined
    width = max(part.shape[1] for _, part in parts)
    joined = first.new_empty(rows, width, first.shape[2])
    for places, part in parts:
        joined[places, : part.shape[1]] = part
        joined[places, part.shape[1] :] = part[:, -1:]
    return joined
