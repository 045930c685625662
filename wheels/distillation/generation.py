"""Generation with one model: greedy for scores and teacher outputs, sampled for on-policy training.

Tokens come from the engine's distribution (`wheels.decoding`): the model's scores of the first V ids, with what its own
settings forbid and force (`wheels.models.generation_settings`), and nothing else of them. A penalty for repetition,
`min_p` and the like in its `generation_config.json` shape what transformers' `generate` writes, and nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from wheels.distillation.collate import pad_with_mask
from wheels.models.devices import device_of
from wheels.models.generation_settings import Constraints
from wheels.models.limits import room
from wheels.models.pair import Pair, logits_size, start_tokens


@dataclass(frozen=True)
class EngineProcessor:
    """A logits processor for `generate`: masks what the engine masks."""

    constraints: Constraints
    """Of the model."""
    vocab_size: int
    """V."""
    begin: int
    """Tokens before the output."""
    limit: int
    """The most tokens of each output."""

    def __call__(self, ids_BT: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        """Return the scores of the first V ids, with what is forbidden at minus infinity."""
        position_B = torch.full((len(ids_BT),), ids_BT.shape[1] - self.begin, device=ids_BT.device)
        limit_B = torch.full_like(position_B, self.limit)
        return self.constraints.apply(scores_BV[:, : self.vocab_size], position_B, limit_B)


@torch.no_grad()
def write(
    model: PreTrainedModel,
    sources: Sequence[list[int]],
    *,
    pad_id: int,
    eos_ids: Sequence[int],
    max_new_tokens: int,
    vocab_size: int | None = None,
    context: int | None = None,
    sample: bool = False,
    temperature: float = 1.0,
    batch_size: int = 64,
    advance: Callable[[int], object] | None = None,
) -> list[list[int]]:
    """Return the outputs of a model, in the order of the sources, each cut after its first end token.

    Args:
        model: sequence-to-sequence or causal; its mode (train or eval) is as before afterwards.
        sources: encoder inputs or prompts, as tokens.
        pad_id: padding.
        eos_ids: the tokens that end an output.
        max_new_tokens: the longest output; one that reaches it has no end token.
        vocab_size: V; ids from there on (padding of the vocabulary) are never written.
        context: the longest sequence that is read (`Pair.source_limit`): an output ends there, and a source that leaves
            no room gets an empty one. None: no limit is known.
        sample: draw from the model's distribution, else take its likeliest token.
        temperature: of the distribution.
        batch_size: rows at a time; sources of similar length go together.
        advance: called with the rows done after each batch.
    """
    processor = EngineProcessor(
        Constraints.of(model), vocab_size or logits_size(model), len(start_tokens(model)), max_new_tokens
    )
    limits = [
        room(len(source), max_new_tokens, context, is_seq2seq=model.config.is_encoder_decoder) for source in sources
    ]
    written: list[list[int]] = [[] for _ in sources]
    settings = _settings(model, pad_id, eos_ids, temperature if sample else None)
    with evaluating(model), replacing_settings(model, settings):
        for limit, rows in _batches(sources, limits, batch_size):
            if limit:
                outputs = _generate(model, [sources[row] for row in rows], pad_id, replace(processor, limit=limit))
                for row, output in zip(rows, outputs, strict=True):
                    written[row] = cut(output, eos_ids)
            if advance is not None:
                advance(len(rows))
    return written


def outputs_of(
    pair: Pair,
    model: PreTrainedModel,
    sources: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    sample: bool = False,
    temperature: float = 1.0,
) -> list[list[int]]:
    """Return the outputs of a model of a pair, as `write` does, with the special tokens and the limits of the pair."""
    return write(
        model,
        sources,
        pad_id=pair.pad_id,
        eos_ids=pair.eos_ids,
        max_new_tokens=max_new_tokens,
        vocab_size=pair.vocab_size,
        context=pair.source_limit,
        sample=sample,
        temperature=temperature,
        batch_size=batch_size,
    )


def _settings(
    model: PreTrainedModel, pad_id: int, eos_ids: Sequence[int], temperature: float | None
) -> GenerationConfig:
    """Return the complete settings for `generate`, none taken from the model; temperature None is greedy."""
    begin = start_tokens(model)
    draws = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        num_beams=1,
        pad_token_id=pad_id,
        eos_token_id=list(eos_ids),
        decoder_start_token_id=begin[0] if begin else None,
        **({"do_sample": False} if temperature is None else draws),
    )


def _batches(
    sources: Sequence[Sequence[int]], limits: Sequence[int], batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield output limits, each with batches of rows of similar length that share it.

    Rows with another limit would read past their own end, at positions that the model may not have.
    """
    order = sorted(range(len(sources)), key=lambda row: (-limits[row], len(sources[row])))
    for limit, group in groupby(order, key=limits.__getitem__):
        rows = list(group)
        for start in range(0, len(rows), batch_size):
            yield limit, rows[start : start + batch_size]


def _generate(
    model: PreTrainedModel, sources: Sequence[list[int]], pad_id: int, processor: EngineProcessor
) -> list[list[int]]:
    """Return the outputs of `model.generate` for one batch, without prompts and start tokens."""
    causal = not model.config.is_encoder_decoder
    ids_BS, mask_BS = (part.to(device_of(model)) for part in pad_with_mask(sources, pad_id, left=causal))
    processor = replace(processor, begin=ids_BS.shape[1]) if causal else processor
    generate: Any = model.generate
    outputs_BT = generate(
        input_ids=ids_BS,
        attention_mask=mask_BS,
        max_new_tokens=processor.limit,
        logits_processor=LogitsProcessorList([processor]),
    )
    rows: list[list[int]] = outputs_BT[:, processor.begin :].tolist()
    return rows


@contextmanager
def replacing_settings(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Replace a model's generation settings in a block: `generate` merges them into any that it is given."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def cut(tokens: Sequence[int], eos_ids: Sequence[int]) -> list[int]:
    """Return the tokens up to the first end token, which is kept."""
    for position, token in enumerate(tokens):
        if token in eos_ids:
            return list(tokens[: position + 1])
    return list(tokens)


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off in a block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
