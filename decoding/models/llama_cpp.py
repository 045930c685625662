"""llama.cpp: the passes of a model whose weights stay in a GGUF file, on its own KV cache and kernels.

A context holds one sequence a row. A pass takes back what a row read beyond its cursor, adds tokens of any number to
each row, and asks for logits where they are wanted. The kernels round a layer's inputs to 8 bits where its weights have
fewer than 16, and take another path for a batch than for one token: so texts may differ from those of the same weights
in torch, and a row's last digits may depend on its company.
"""

from __future__ import annotations

import ctypes
import weakref
from pathlib import Path
from typing import NamedTuple

import llama_cpp
import numpy as np
import torch
from transformers import PreTrainedModel

from wheels.decoding.models.cache import RaggedCache, capacity
from wheels.decoding.models.forward_batches import CHUNK
from wheels.decoding.models.inputs import AttentionInputs, LogitsToKeep, Results
from wheels.errors import WheelsError
from wheels.models.in_file import gguf_file_of

INT32 = ctypes.POINTER(ctypes.c_int32)
_made: weakref.WeakKeyDictionary[PreTrainedModel, LlamaCppDecoder] = weakref.WeakKeyDictionary()


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, user_data: object) -> None:
    """Drop what llama.cpp has to tell: hundreds of lines a model."""


def llama_cpp_decoder(model: PreTrainedModel) -> LlamaCppDecoder:
    """Return the decoder of a model whose weights stay in their file; the file is read once.

    Raises:
        WheelsError: where llama.cpp cannot read it.
    """
    if model not in _made:
        file = gguf_file_of(model)
        assert file is not None, "the weights are in a file"
        _made[model] = LlamaCppDecoder(file)
    return _made[model]


class Reading(NamedTuple):
    """The tokens of one pass."""

    token_N: np.ndarray
    position_N: np.ndarray
    owner_N: np.ndarray
    """Their rows."""
    wanted_N: np.ndarray
    """Behind which of them logits are wanted."""

    def of(self, which_N: np.ndarray) -> Reading:
        """Return some of them."""
        return Reading(*(each_N[which_N] for each_N in self))


class LlamaCppDecoder:
    """Runs a GGUF file's model.

    Args:
        file: Of the weights.

    Raises:
        WheelsError: where llama.cpp cannot read it.
    """

    name = "llama.cpp"
    kind, encoder_kind, encoder = "llama.cpp", "", None

    def __init__(self, file: Path) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise WheelsError(f"llama.cpp cannot load {file}; leave --backend llama.cpp out to read it in torch")
        weakref.finalize(self, llama_cpp.llama_model_free, self.model)
        vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.shape = int(vocabulary), int(llama_cpp.llama_model_n_embd(self.model))
        told = ctypes.create_string_buffer(128)
        llama_cpp.llama_model_desc(self.model, told, len(told))
        self.number_format = told.value.decode().split(" ", 2)[-1]  # behind family and size
        """Of the weights, as the file says."""
        self._contexts: weakref.WeakKeyDictionary[RaggedCache, Context] = weakref.WeakKeyDictionary()

    def forward(
        self, tokens_RK: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs, keep: LogitsToKeep
    ) -> Results:
        """Read the new tokens; return logits and hidden states where they are kept, `[R, W, V]` and `[R, W, D]`.

        Without hidden states D is 0: llama.cpp gives them only for every token that a pass reads, with its logits.
        """
        rows, counts = np.array(inputs.rows), np.array(inputs.counts)
        kept = np.ones_like(counts) if keep.keep_R is None else keep.keep_R.numpy()
        context = self._context(cache, inputs.visible)
        context.take_back(rows, np.array(inputs.lengths) - counts, np.array(inputs.lengths))
        position_N = inputs.write.positions_RK.flatten().numpy()
        before_N = counts.cumsum().repeat(counts) - np.arange(counts.sum())  # of the row's last token it is 1
        wanted_N = before_N <= kept.repeat(counts)
        reading = Reading(tokens_RK.flatten().numpy(), position_N, rows.repeat(counts), wanted_N)
        if keep.hidden and not wanted_N.all():
            context.read(reading.of(~wanted_N))
            reading = reading.of(wanted_N)
        logits_MV, hidden_MD = context.read(reading, hidden=keep.hidden)
        last_R = torch.from_numpy(kept.cumsum() - 1)
        # A row that keeps fewer than W positions repeats its last.
        place_RW = (last_R - torch.from_numpy(kept) + 1)[:, None] + torch.arange(int(kept.max()))
        place_RW = place_RW.minimum(last_R[:, None])
        return logits_MV[place_RW], hidden_MD[place_RW]

    def _context(self, cache: RaggedCache, visible: int) -> Context:
        """Return the context that stands for a cache, with room for `visible` positions of each row."""
        known = self._contexts.get(cache)
        if known is None or known.room < visible:
            known = self._contexts[cache] = Context(self, cache.rows, capacity(visible), known)
        return known


class Context:
    """What llama.cpp has read of each row.

    Args:
        decoder: Whose weights are read.
        rows: Sequences that it holds.
        room: Positions of each.
        former: A smaller one, whose texts are taken over.

    Raises:
        WheelsError: for more rows than llama.cpp holds.
    """

    def __init__(self, decoder: LlamaCppDecoder, rows: int, room: int, former: Context | None) -> None:
        most = int(llama_cpp.llama_max_parallel_sequences())
        if rows > most:
            raise WheelsError(f"llama.cpp holds {most} texts at a time, got {rows}; take a smaller --batch-size")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.kv_unified = rows * room, rows, True
        settings.n_batch = settings.n_ubatch = max(CHUNK, rows)
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        self.decoder, self.room, self.read_B = decoder, room, np.zeros(rows, np.int64)
        self.pointer = llama_cpp.llama_init_from_model(decoder.model, settings)
        if not self.pointer:
            raise WheelsError(f"llama.cpp has no memory for {rows} texts of {room} tokens; take a smaller --batch-size")
        weakref.finalize(self, llama_cpp.llama_free, self.pointer)
        self.memory = llama_cpp.llama_get_memory(self.pointer)
        self.batch = Batch(settings.n_batch)
        if former is not None:
            self._take_over(former)

    def _take_over(self, former: Context) -> None:
        """Copy what another context has read."""
        self.read_B = former.read_B
        for row in np.flatnonzero(self.read_B).tolist():
            size = llama_cpp.llama_state_seq_get_size(former.pointer, row)
            state = (ctypes.c_uint8 * size)()
            llama_cpp.llama_state_seq_get_data(former.pointer, state, size, row)
            llama_cpp.llama_state_seq_set_data(self.pointer, state, size, row)

    def take_back(self, rows: np.ndarray, first_R: np.ndarray, length_R: np.ndarray) -> None:
        """Forget what rows read at and beyond `first_R`, and note that they will have read `length_R`."""
        for row, first in zip(rows.tolist(), first_R.tolist(), strict=True):
            if self.read_B[row] > first:
                llama_cpp.llama_memory_seq_rm(self.memory, row, first, -1)
        self.read_B[rows] = length_R

    def read(self, reading: Reading, *, hidden: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Read tokens of some rows; return logits and hidden states where they are wanted, `[M, V]` and `[M, D]`.

        Raises:
            WheelsError: where llama.cpp fails.
        """
        llama_cpp.llama_set_embeddings(self.pointer, hidden)
        code = llama_cpp.llama_decode(self.pointer, self.batch.of(reading))
        if code:
            count = len(reading.token_N)
            raise WheelsError(f"llama.cpp could not read {count} tokens (code {code}); take a smaller --batch-size")
        count, (vocabulary, width) = int(reading.wanted_N.sum()), self.decoder.shape
        logits_MV = _copied(llama_cpp.llama_get_logits(self.pointer), count, vocabulary)
        return logits_MV, _copied(llama_cpp.llama_get_embeddings(self.pointer), count, width if hidden else 0)


class Batch:
    """The tokens of one pass, in memory that is laid out once."""

    def __init__(self, size: int) -> None:
        token_N, position_N, owner_N = np.zeros((3, size), np.int32)
        wanted_N, self.one_N = np.zeros(size, np.int8), np.ones(size, np.int32)
        self.memory = Reading(token_N, position_N, owner_N, wanted_N)
        # Each token belongs to one row, whose number lies here.
        self.places_N = owner_N.ctypes.data + owner_N.itemsize * np.arange(size, dtype=np.uint64)
        self.batch = llama_cpp.llama_batch(
            token=token_N.ctypes.data_as(INT32),
            pos=position_N.ctypes.data_as(INT32),
            n_seq_id=self.one_N.ctypes.data_as(INT32),
            seq_id=self.places_N.ctypes.data_as(ctypes.POINTER(INT32)),
            logits=wanted_N.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def of(self, reading: Reading) -> llama_cpp.llama_batch:
        """Return a batch of these tokens."""
        count = self.batch.n_tokens = len(reading.token_N)
        for memory_N, told_N in zip(self.memory, reading, strict=True):
            memory_N[:count] = told_N
        return self.batch


def _copied(pointer: object, rows: int, width: int) -> torch.Tensor:
    """Return a copy of a table of llama.cpp, which its next pass overwrites."""
    if not rows or not width:
        return torch.empty(rows, width)
    return torch.from_numpy(np.ctypeslib.as_array(pointer, (rows, width)).copy())
