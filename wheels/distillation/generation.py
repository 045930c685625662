"""What a model writes by itself: greedy for scores and teacher outputs, sampled for on-policy training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.distillation.collate import pad_with_mask
from wheels.pair import logits_size


@torch.no_grad()
def write(
    model: PreTrainedModel,
    sources: Sequence[list[int]],
    *,
    pad_id: int,
    eos_ids: Sequence[int],
    max_new_tokens: int,
    vocab_size: int | None = None,
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
        sample: draw from the model's law, else take its likeliest token.
        temperature: of the law that is drawn from.
        batch_size: rows at a time; sources of similar length go together.
        advance: called with the rows done after each batch.
    """
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    written: list[list[int]] = [[] for _ in sources]
    beyond = list(range(vocab_size or logits_size(model), logits_size(model)))
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "num_beams": 1,
        "pad_token_id": pad_id,
        "eos_token_id": list(eos_ids),
        "suppress_tokens": beyond or None,
        **(
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if sample
            else {"do_sample": False}
        ),
    }
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for row, output in zip(rows, _generate(model, [sources[row] for row in rows], options), strict=True):
                written[row] = cut(output, eos_ids)
            if advance is not None:
                advance(len(rows))
    return written


def _generate(model: PreTrainedModel, sources: Sequence[list[int]], options: Mapping[str, Any]) -> list[list[int]]:
    """Return what `model.generate` writes after one batch of sources, prompts and start tokens left out."""
    left = not model.config.is_encoder_decoder
    ids, mask = pad_with_mask(sources, options["pad_token_id"], left=left)
    generate: Any = model.generate
    outputs = generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **options)
    rows: list[list[int]] = outputs[:, ids.shape[1] if left else 1 :].tolist()
    return rows


def cut(tokens: Sequence[int], eos_ids: Sequence[int]) -> list[int]:
    """Return the tokens up to the first end token, which is kept."""
    for position, token in enumerate(tokens):
        if token in eos_ids:
            return list(tokens[: position + 1])
    return list(tokens)


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
