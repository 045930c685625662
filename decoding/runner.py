"""One model, its cache, and a cursor per row: it reads what a row has not read yet, and tells what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from wheels.decoding.cache import RaggedCache, Write
from wheels.decoding.positions import positions_of


@dataclass(frozen=True)
class Output:
    """What a model says after the last token that each row read."""

    logits_RV: torch.Tensor
    """Scores of the next token, float32, over the pair's common vocabulary."""
    hidden_RD: torch.Tensor
    """What the output head read to make them: the last hidden state, float32."""


class Runner:
    """A model that reads `rows` texts at their own pace.

    A row's text is its prefix (the prompt of a causal model, the start token of an encoder-decoder) and what was
    generated. `read` brings rows up to date in one pass over all that each of them has not read, however much that
    is; `rewind` takes tokens back by moving the cursor.

    Args:
        model: A sequence-to-sequence or causal language model, in evaluation mode.
        rows: How many texts it holds at a time.
        vocab_size: Scores beyond it are cut off (padding of the vocabulary).

    Raises:
        WheelsError: where the model's family cannot be decoded at ragged lengths.
    """

    def __init__(self, model: PreTrainedModel, rows: int, vocab_size: int) -> None:
        self.model = model
        self.vocab_size = vocab_size
        self.cursor_B = torch.zeros(rows, dtype=torch.long, device=model.device)
        self.cross = bool(model.config.is_encoder_decoder)
        self.positions = positions_of(model)
        config = model.config.get_text_config(decoder=True)
        layers = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
        self.cache = RaggedCache(layers or config.num_hidden_layers, rows, cross=self.cross)
        self._sources: list[Sequence[int]] = [()] * rows
        self._source_BSD: torch.Tensor | None = None
        self._source_length_B = torch.zeros_like(self.cursor_B)
        self._known = [False] * rows

    def admit(self, rows: Sequence[int], sources: Sequence[Sequence[int]]) -> None:
        """Give `rows` new texts; `sources` are what the encoder of a sequence-to-sequence model reads (else unused).

        Nothing is computed: the encoder runs when the row is first read, so a row that never calls costs nothing.
        """
        for row, source in zip(rows, sources, strict=True):
            self._sources[row] = source
            self._known[row] = False
        self.cursor_B[list(rows)] = 0

    def read(self, rows_R: torch.Tensor | None, tokens_BT: torch.Tensor, length_B: torch.Tensor) -> Output:
        """Read `tokens_BT[row, cursor:length]` of each row, in one pass, and move the cursors there.

        Args:
            rows_R: The rows that read, int64; None for all. Each has at least one token to read.
            tokens_BT: The texts of all rows, prefix included, padded on the right.
            length_B: The length of each row's text.
        """
        cursor_R = self.cursor_B if rows_R is None else self.cursor_B[rows_R]
        length_R = length_B if rows_R is None else length_B[rows_R]
        count_R = length_R - cursor_R
        width = int(count_R.max())
        assert int(count_R.min()) > 0, "a row has nothing to read"
        slots_RK = cursor_R[:, None] + torch.arange(width, device=cursor_R.device)
        texts = tokens_BT if rows_R is None else tokens_BT[rows_R]
        chosen_RK = texts.gather(1, slots_RK.clamp(max=texts.shape[1] - 1))
        logits_RV, hidden_RD = self._forward(rows_R, chosen_RK, slots_RK, count_R)
        if rows_R is None:
            self.cursor_B = length_R.clone()
        else:
            self.cursor_B[rows_R] = length_R
        return Output(logits_RV, hidden_RD)

    def rewind(self, rows_R: torch.Tensor, length_R: torch.Tensor) -> None:
        """Forget what `rows_R` read at and beyond `length_R`: the cursor moves, nothing is copied."""
        self.cursor_B[rows_R] = torch.minimum(self.cursor_B[rows_R], length_R)

    def select(self, rows_R: torch.Tensor) -> None:
        """Keep `rows_R` alone, in that order; the others' memory is given back."""
        self.cache.select(rows_R)
        self.cursor_B = self.cursor_B[rows_R]
        kept = rows_R.tolist()
        self._sources = [self._sources[row] for row in kept]
        self._known = [self._known[row] for row in kept]
        if self._source_BSD is not None:
            self._source_BSD = self._source_BSD[rows_R]
            self._source_length_B = self._source_length_B[rows_R]

    @torch.no_grad()
    def _forward(
        self, rows_R: torch.Tensor | None, tokens_RK: torch.Tensor, slots_RK: torch.Tensor, count_R: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = slots_RK[:, 0]
        visible = int(first.max()) + slots_RK.shape[1]
        uniform = int(first[0]) if int(first.min()) == int(first.max()) else None
        write = Write(rows_R, slots_RK, uniform, visible)
        mask = self._mask(torch.arange(visible, device=first.device) <= slots_RK[:, :, None])
        inputs = self._encoded(rows_R, write) if self.cross else {"past_key_values": self.cache.prepare(write)}
        own, text = ("decoder_attention_mask", "decoder_input_ids") if self.cross else ("attention_mask", "input_ids")
        # A padded query is never read; its position must only be one that the model has.
        position_RK = slots_RK.minimum((first + count_R - 1)[:, None])
        with self.positions(position_RK, visible) as extra, _HeadAtLast(self.model, count_R) as head:
            output = self.model(**{text: tokens_RK, own: mask}, **inputs, **extra, use_cache=True)
        return output.logits[:, -1, : self.vocab_size].float(), head.hidden_RD.float()

    def _mask(self, allowed_RKL: torch.Tensor) -> torch.Tensor:
        """Return the 4-D mask in the form that the model's attention reads: True = attend, or 0 = attend."""
        allowed = allowed_RKL[:, None]
        if self.model.config._attn_implementation == "sdpa":
            return allowed
        dtype = self.model.dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
            ~allowed, torch.finfo(dtype).min
        )

    def _encoded(self, rows_R: torch.Tensor | None, write: Write) -> dict[str, object]:
        """Return the decoder's view of the sources, encoding those that were never read."""
        rows = range(len(self._known)) if rows_R is None else rows_R.tolist()
        new = [row for row in rows if not self._known[row]]
        if new:
            self._encode(new)
        assert self._source_BSD is not None
        length_R = self._source_length_B if rows_R is None else self._source_length_B[rows_R]
        visible = int(length_R.max())
        source_RSD = (self._source_BSD if rows_R is None else self._source_BSD[rows_R])[:, :visible]
        seen_RS = torch.arange(visible, device=length_R.device) < length_R[:, None]
        cache = self.cache.prepare(write, source_visible=visible, source_known=not new)
        return {
            "past_key_values": cache,
            "encoder_outputs": (source_RSD,),
            "attention_mask": self._mask(seen_RS[:, None]),
        }

    def _encode(self, rows: list[int]) -> None:
        """Run the encoder over the sources of `rows` and keep its states."""
        sources = [self._sources[row] for row in rows]
        width = max(len(source) for source in sources)
        device = self.cursor_B.device
        pad = self.model.config.pad_token_id or 0
        ids_RS = torch.tensor([[*source, *[pad] * (width - len(source))] for source in sources], device=device)
        length_R = torch.tensor([len(source) for source in sources], device=device)
        seen_RS = (torch.arange(width, device=device) < length_R[:, None]).long()
        states = self.model.get_encoder()(input_ids=ids_RS, attention_mask=seen_RS).last_hidden_state
        old = self._source_BSD
        if old is None or old.shape[1] < width:
            self._source_BSD = states.new_zeros(len(self._known), width, states.shape[2])
            if old is not None:
                self._source_BSD[:, : old.shape[1]] = old
        assert self._source_BSD is not None
        index = torch.tensor(rows, device=device)
        self._source_BSD[index, :width] = states
        self._source_length_B[index] = length_R
        for row in rows:
            self._known[row] = True


class _HeadAtLast:
    """Within it the model's output head reads only the last real position of each row, and what it read is kept."""

    hidden_RD: torch.Tensor

    def __init__(self, model: PreTrainedModel, count_R: torch.Tensor) -> None:
        self.model, self.count_R = model, count_R

    def __enter__(self) -> _HeadAtLast:
        self.handle = self.model.get_output_embeddings().register_forward_pre_hook(self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def _keep(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden_RKD = inputs[0]
        last = hidden_RKD[torch.arange(len(self.count_R), device=hidden_RKD.device), self.count_R - 1]
        self.hidden_RD = last
        return (last[:, None],)
