"""A batch as transformers' `generate` hands it over: padded ids, masks, processors and criteria, by the engine's rows.

The engine writes each row at its own pace, without padding. Processors and criteria are shown what `generate` itself
would show them: the padded prompts of the whole batch, each row at its own place in it. So lengths that count padding
(`min_new_tokens`) and settings by row (`prefix_allowed_tokens_fn`) mean the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    PreTrainedModel,
    StoppingCriteriaList,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from wheels.decoding.hf.pair import GeneratePair
from wheels.decoding.sequences import TextBatch
from wheels.errors import WheelsError

STATEFUL = (SynthIDTextWatermarkLogitsProcessor, UnbatchedClassifierFreeGuidanceLogitsProcessor)
"""Processors that keep a state from call to call: they must see every step once, and drafts are scored again."""


class GenerateBatch:
    """The inputs of one call, for the engine's rows.

    Args:
        input_ids: What the outputs follow, `[B, L]`: padded prompts, or the first tokens of the decoder.
        sources: The ids that the models read, `[B, S]`: the prompts again, or the encoder's source.
        mask: Which of them are real, `[B, S]`; None: all.
        processors: Changes of scores.
        criteria: When to end; length limits and end tokens among them are taken out and kept natively.
        config: The settings of the call.

    Raises:
        WheelsError: for rows that cannot be read, or processors that keep a state.
    """

    def __init__(
        self,
        input_ids: torch.Tensor,
        sources: torch.Tensor,
        mask: torch.Tensor | None,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        config: GenerationConfig,
    ) -> None:
        stateful = [type(each).__name__ for each in processors if isinstance(each, STATEFUL)]
        if stateful:
            raise WheelsError(f"{stateful[0]} keeps a state from token to token, and drafts are scored again; leave it")
        self.prompts_BL, self.processors = input_ids, processors
        self.sources = unpadded(sources, mask)
        native = (MaxLengthCriteria, EosTokenCriteria)
        self.criteria = StoppingCriteriaList([each for each in criteria if type(each) not in native])
        self.eos_ids = _end_tokens(criteria)
        self.max_new_tokens = _most_tokens(criteria, config) - input_ids.shape[1]
        if self.max_new_tokens < 1:
            raise WheelsError(
                f"the inputs have {input_ids.shape[1]} tokens, which leaves none to write; raise max_length"
            )
        self.samples = bool(config.do_sample)
        pad = getattr(config, "_pad_token_tensor", None)
        pad = pad if pad is not None else config.pad_token_id
        self.pad_id = None if pad is None else int(pad)

    def __call__(
        self, logits_NV: torch.Tensor, texts: TextBatch, slot_N: torch.Tensor, position_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the scores as the processors change them: one call for all places of one position.

        Args:
            logits_NV: Scores of places in texts.
            texts: The texts in flight.
            slot_N: The text of each place.
            position_N: The tokens of its output that come before it.
        """
        if not self.processors:
            return logits_NV
        shaped_NV = torch.empty_like(logits_NV)
        index_N = texts.index_S[slot_N]
        for written in position_N.unique().tolist():
            here_N = position_N == written
            slot_M, index_M, logits_MV = slot_N[here_N], index_N[here_N], logits_NV[here_N]
            place_MT = texts.prefix_S[slot_M][:, None] + torch.arange(written, device=slot_N.device)
            tokens_MT = texts.tokens_ST[slot_M[:, None], place_MT]
            # Rows that are elsewhere are stood in for by the first of these; what they are told is dropped.
            tokens_BT = tokens_MT[:1].repeat(len(self.prompts_BL), 1)
            logits_BV = logits_MV[:1].repeat(len(self.prompts_BL), 1)
            tokens_BT[index_M], logits_BV[index_M] = tokens_MT, logits_MV
            # Processors are typed for a LongTensor, which no function returns.
            ids: Any = torch.cat([self.prompts_BL, tokens_BT], 1)
            shaped_NV[here_N] = self.processors(ids, logits_BV)[index_M].to(shaped_NV.dtype)
        return shaped_NV

    def stops(self, index: int, tokens: list[int]) -> bool:
        """Tell whether a criterion other than length and end token ends row `index` after `tokens`."""
        rows = len(self.prompts_BL)
        ids: Any = torch.cat([self.prompts_BL, self.prompts_BL.new_tensor(tokens).expand(rows, -1)], 1)
        return bool(self.criteria(ids, None)[index])

    def padded(self, outputs: Sequence[Sequence[int]]) -> torch.Tensor:
        """Put the outputs behind what they follow, `[B, L + longest]`, filled up on the right.

        Raises:
            WheelsError: where outputs end at different lengths, and no token is known to fill them up.
        """
        longest = max(map(len, outputs), default=0)
        if self.pad_id is None and any(len(output) < longest for output in outputs):
            raise WheelsError("outputs end at different lengths, and there is no padding token; give pad_token_id=...")
        rows = [[*output, *[self.pad_id or 0] * (longest - len(output))] for output in outputs]
        tokens = torch.tensor(rows, dtype=self.prompts_BL.dtype, device=self.prompts_BL.device)
        return torch.cat([self.prompts_BL, tokens], 1)

    def pair(self, student: PreTrainedModel, teacher: PreTrainedModel) -> GeneratePair:
        """Return the two models with the special tokens of the call.

        Raises:
            WheelsError: where what the decoders read first differs from row to row.
        """
        start: tuple[int, ...] = ()
        if student.config.is_encoder_decoder:
            if bool((self.prompts_BL != self.prompts_BL[:1]).any()):
                raise WheelsError("decoder_input_ids differ from row to row; decode rows that begin alike together")
            start = tuple(self.prompts_BL[0].tolist())
        return GeneratePair(student, teacher, eos_ids=self.eos_ids, pad_id=self.pad_id or 0, start_ids=start)


def unpadded(ids_BS: torch.Tensor, mask_BS: torch.Tensor | None) -> list[list[int]]:
    """Return the tokens of each row that its mask shows.

    Raises:
        WheelsError: for a row without any token, or with a hole between two of them.
    """
    rows = []
    seen = torch.ones_like(ids_BS) if mask_BS is None else mask_BS
    for number, (ids, mask) in enumerate(zip(ids_BS.tolist(), seen.tolist(), strict=True), start=1):
        real = [place for place, shown in enumerate(mask) if shown]
        if not real:
            raise WheelsError(f"row {number} of {len(ids_BS)} has no token at all; give it some, or leave it out")
        if real[-1] - real[0] >= len(real):
            raise WheelsError(f"the attention_mask of row {number} of {len(ids_BS)} has a hole; pad at the ends alone")
        rows.append(ids[real[0] : real[-1] + 1])
    return rows


def _end_tokens(criteria: StoppingCriteriaList) -> tuple[int, ...]:
    """Return the tokens that end an output."""
    found = [each.eos_token_id for each in criteria if type(each) is EosTokenCriteria]
    return tuple(dict.fromkeys(token for tokens in found for token in tokens.flatten().tolist()))


def _most_tokens(criteria: StoppingCriteriaList, config: GenerationConfig) -> int:
    """Return the longest that a text may grow, what it follows included."""
    limits = [each.max_length for each in criteria if type(each) is MaxLengthCriteria]
    limits += [] if limits or config.max_length is None else [config.max_length]
    if not limits:
        raise WheelsError("nothing says how long an output may grow; give max_new_tokens=...")
    return int(min(limits))
