"""One call of transformers' `generate`, translated for the engine: ids, masks, logits processors, stopping criteria.

The engine decodes each row without padding. Processors and criteria still see what `generate` shows them: the padded
prompts of the whole batch. So lengths that count padding (`min_new_tokens`) and settings by row
(`prefix_allowed_tokens_fn`) mean the same in both.
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
"""Processors with a state from step to step: the engine scores draft tokens again, and would advance it twice."""


class GenerateBatch:
    """The inputs of one call.

    Args:
        input_ids: The prefix of the outputs, `[B, L]`: padded prompts, or the decoder's first tokens.
        sources: The ids that the models read, `[B, S]`: the prompts again, or the encoder's source.
        mask: Which of them are no padding, `[B, S]`; None: all.
        processors: Logits processors, applied to both models.
        criteria: Stopping criteria. The engine itself keeps length limits and end tokens.
        config: The generation settings of the call.

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
        """Apply the processors to logits of several texts: one call for all that have written as many tokens.

        Args:
            logits_NV: The next token's logits.
            texts: The texts in flight.
            slot_N: The text of each row.
            position_N: How many tokens it has written.
        """
        if not self.processors:
            return logits_NV
        processed_NV = torch.empty_like(logits_NV)
        index_N = texts.index_Q[slot_N]
        for written in position_N.unique().tolist():
            chosen_N = position_N == written
            slot_M, index_M, logits_MV = slot_N[chosen_N], index_N[chosen_N], logits_NV[chosen_N]
            column_MT = texts.prefix_Q[slot_M][:, None] + torch.arange(written, device=slot_N.device)
            tokens_MT = texts.tokens_QT[slot_M[:, None], column_MT]
            # Rows at other positions hold a copy of the first row; their results are dropped.
            tokens_BT = tokens_MT[:1].repeat(len(self.prompts_BL), 1)
            logits_BV = logits_MV[:1].repeat(len(self.prompts_BL), 1)
            tokens_BT[index_M], logits_BV[index_M] = tokens_MT, logits_MV
            # Processors ask for a LongTensor, a type that no function returns.
            ids: Any = torch.cat([self.prompts_BL, tokens_BT], 1)
            processed_NV[chosen_N] = self.processors(ids, logits_BV)[index_M].to(processed_NV.dtype)
        return processed_NV

    def stops(self, index: int, tokens: list[int]) -> bool:
        """Tell whether a stopping criterion, other than length and end token, ends row `index` after `tokens`."""
        rows = len(self.prompts_BL)
        ids: Any = torch.cat([self.prompts_BL, self.prompts_BL.new_tensor(tokens).expand(rows, -1)], 1)
        return bool(self.criteria(ids, None)[index])

    def padded(self, outputs: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append the outputs to their prefixes, padded on the right: `[B, L + longest]`.

        Raises:
            WheelsError: for outputs of different lengths without a padding token.
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
            WheelsError: where the decoders' first tokens differ between rows.
        """
        start: tuple[int, ...] = ()
        if student.config.is_encoder_decoder:
            if bool((self.prompts_BL != self.prompts_BL[:1]).any()):
                raise WheelsError("decoder_input_ids differ from row to row; decode rows that begin alike together")
            start = tuple(self.prompts_BL[0].tolist())
        return GeneratePair(student, teacher, eos_ids=self.eos_ids, pad_id=self.pad_id or 0, start_ids=start)


def unpadded(ids_BS: torch.Tensor, mask_BS: torch.Tensor | None) -> list[list[int]]:
    """Return each row without its padding.

    Raises:
        WheelsError: for a row without any token, or with a hole between two of them.
    """
    rows = []
    mask_BS = torch.ones_like(ids_BS) if mask_BS is None else mask_BS
    for number, (ids, mask) in enumerate(zip(ids_BS.tolist(), mask_BS.tolist(), strict=True), start=1):
        real = [column for column, is_real in enumerate(mask) if is_real]
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
    """Return the largest length of a row, prefix included."""
    limits = [each.max_length for each in criteria if type(each) is MaxLengthCriteria]
    limits += [] if limits or config.max_length is None else [config.max_length]
    if not limits:
        raise WheelsError("nothing says how long an output may grow; give max_new_tokens=...")
    return int(min(limits))
