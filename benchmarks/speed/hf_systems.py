"""transformers' own ways of decoding, timed: `generate` in padded batches, assisted generation, prompt lookup.

The library takes assisted generation and prompt lookup one text at a time, whatever the batch size.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as hf_logging

from wheels.benchmarks.speed.forward_timer import Shape, on_grid, wait_for
from wheels.decoding.methods.rule import AnyRule
from wheels.decoding.models.cache import cache_argument
from wheels.decoding.sequences import sequences_of
from wheels.distillation.collate import pad_with_mask
from wheels.models.devices import device_of
from wheels.models.pair import Pair

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """The texts that all systems decode."""

    pair: Pair
    texts: Sequence[str]
    max_new_tokens: int


@dataclass(frozen=True)
class Workload:
    """The inputs of all systems."""

    prompts: Prompts
    """The texts, encoded, and the pair."""
    budget: float
    """The share of tokens that the teacher writes in deferral."""
    rule: AnyRule | None
    """Which calls it; None: the model has no rule for this budget."""
    draft: int
    """K, the tokens of a draft."""
    converted: Path | None = None
    """The folder of the models that are converted for another engine; None: none is."""


@dataclass(frozen=True)
class Outcome:
    """What one system did in one round."""

    outputs: list[Tokens]
    """The tokens of each text, up to and with the first that ends it."""
    seconds: float
    """From the texts to their outputs, encoding and decoding of text included."""
    passes: Counter[Shape]
    """The forward passes; empty: an engine that does not tell."""
    teacher_tokens: int | None = None
    """Tokens that the teacher wrote; None: the library does not tell."""
    drafted: int = 0
    accepted: int = 0
    checked: int = 0
    forward_seconds: float | None = None
    """Of `seconds` those within the models' forwards; None: not told, by the library or by the device."""

    @property
    def tokens(self) -> int:
        """Tokens written."""
        return sum(map(len, self.outputs))


def padded(model: str) -> Callable[[Workload, int], Outcome]:
    """Return a function that runs one model's `generate` in padded batches of texts of like length."""

    def run(workload: Workload, batch_size: int) -> Outcome:
        outcome = _generate(workload.prompts, model, batch_size, 1, {})
        written = outcome.tokens if model == "teacher" else 0
        return Outcome(outcome.outputs, outcome.seconds, outcome.passes, written)

    return run


def assisted(prompts: Prompts, draft: int) -> Outcome:
    """Run the teacher's `generate` with the student as its assistant: drafts of `draft` tokens, never cut short."""
    with _drafts_of(prompts.pair.student, draft):
        return _generate(prompts, "teacher", 1, draft + 1, {"assistant_model": prompts.pair.student})


def looked_up(prompts: Prompts, draft: int) -> Outcome:
    """Run the teacher's `generate` with drafts that are copied from the text."""
    return _generate(prompts, "teacher", 1, draft + 1, {"prompt_lookup_num_tokens": draft})


@contextmanager
def _drafts_of(student: PreTrainedModel, draft: int) -> Iterator[None]:
    """Have an assistant write drafts of one length: its settings would change it, and stop at an unsure token."""
    settings: Any = student.generation_config
    wanted = {
        "num_assistant_tokens": draft,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0,
    }
    before = {name: getattr(settings, name, None) for name in wanted}
    settings.update(**wanted)
    try:
        yield
    finally:
        settings.update(**before)


def _generate(prompts: Prompts, model: str, batch_size: int, head: int, extra: dict[str, Any]) -> Outcome:
    """Run a model's own greedy `generate` over all texts."""
    pair = prompts.pair
    writer: Any = getattr(pair, model)
    outputs: list[Tokens] = [()] * len(prompts.texts)
    with _quiet(), _counted(pair, head) as passes:
        wait_for(pair.device)
        start = time.perf_counter()
        rows = sequences_of(pair, pair.encode(prompts.texts), prompts.max_new_tokens)
        rows.sort(key=lambda row: -len(row.source))
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            ids_RS, seen_RS = pad_with_mask([row.source for row in batch], pair.pad_id, left=not pair.is_seq2seq)
            written = writer.generate(
                input_ids=ids_RS.to(device_of(writer)),
                attention_mask=seen_RS.to(device_of(writer)),
                max_new_tokens=max(row.limit for row in batch),
                do_sample=False,
                num_beams=1,
                pad_token_id=pair.pad_id,
                eos_token_id=list(pair.eos_ids),
                **extra,
            )
            begin = len(pair.start_ids) if pair.is_seq2seq else ids_RS.shape[1]
            for row, tokens in zip(batch, written[:, begin:].tolist(), strict=True):
                outputs[row.index] = until_end(tokens[: row.limit], pair.eos_ids)
                pair.decode(outputs[row.index])
        wait_for(pair.device)
        seconds = time.perf_counter() - start
    return Outcome(outputs, seconds, passes)


def until_end(tokens: Sequence[int], ends: Sequence[int]) -> Tokens:
    """Return tokens up to and with the first that ends a text; what follows is padding."""
    return tuple(tokens[: next((place for place, token in enumerate(tokens, 1) if token in ends), len(tokens))])


@contextmanager
def _counted(pair: Pair, head: int) -> Iterator[Counter[Shape]]:
    """Count the forward passes of both models within; the teacher's score `head` positions at most."""
    passes: Counter[Shape] = Counter()

    def note(name: str, most: int, cache_name: str) -> Callable[..., None]:
        def before(module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            ids = named["decoder_input_ids" if pair.is_seq2seq else "input_ids"]
            cache = named.get(cache_name)
            context = 0 if cache is None else int(cache.get_seq_length())
            rows, width = ids.shape
            passes[Shape(name, "decode", rows, width, on_grid(context), min(width, most) if context else 1)] += 1

        return before

    def note_source(name: str) -> Callable[..., None]:
        def before(module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            ids = named["input_ids"] if "input_ids" in named else inputs[0]
            rows, width = ids.shape
            passes[Shape(name, "encode", rows, width, 0, 0)] += 1

        return before

    handles = []
    for name, model, most in (("student", pair.student, 1), ("teacher", pair.teacher, head)):
        handles.append(model.register_forward_pre_hook(note(name, most, cache_argument(type(model))), with_kwargs=True))
        if pair.is_seq2seq:
            encoder: Any = model.get_encoder()
            handles.append(encoder.register_forward_pre_hook(note_source(name), with_kwargs=True))
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back transformers' advice, which would be printed once for each text."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
