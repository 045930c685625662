"""A model against its own `generate`, token for token: alone and in a batch, plainly and with drafts taken back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.decoding.compatibility.small import small_config, small_model, small_texts, small_tokenizer
from wheels.decoding.methods.method import speculative, teacher_only
from wheels.decoding.models.registry import has_fast_path
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode
from wheels.errors import WheelsError, is_of_machine
from wheels.models.devices import check_device
from wheels.models.families import FamilyRefused, layer_windows, refusal
from wheels.models.loading import DTYPES, Tokenizer, first_line, load_config, load_model, load_tokenizer
from wheels.models.pair import Pair, kind_of

BATCHES = (1, 8)
TEXTS, TOKENS = 8, 24
DRAFT = 4
NOISE = 0.08
"""Of the twin that drafts, in standard deviations of each weight: some of its tokens are accepted, and some are not."""
SENTENCES = (
    "The old bridge over the river was closed in March.",
    "Two",
    "She asked him whether the last train had already left, and he nodded.",
    "Wheat, maize and rice feed most people.",
    "On the third day it rained so hard that the roads were under water until the evening.",
    "Who was it?",
    "The committee met again on Tuesday.",
    "A small boat lay in the harbour beside three large ones.",
)
"""What the models of a folder read."""


@dataclass(frozen=True)
class Checked:
    """What was found of one family or folder."""

    name: str
    """As it was asked for."""
    kind: str
    """`causal` or `sequence-to-sequence`."""
    path: str
    """`fast` or `library`: what runs it; empty where it is refused."""
    window: int | None
    """Positions that a layer with sliding-window attention sees; None: there is no such layer."""
    equal: dict[str, int]
    """By batch size: texts whose tokens are all those of `generate`, plainly and with drafts."""
    texts: int
    """How many there were."""
    accepted: float | None = None
    """The share of draft tokens that were accepted; the others were taken back."""
    refused: str | None = None
    """Why it cannot be decoded."""

    @property
    def exact(self) -> bool:
        """Whether every text is that of `generate`."""
        return self.refused is None and all(count == self.texts for count in self.equal.values())


def check_family(family: str, *, dtype: str = "float32", device: str = "cpu") -> Checked:
    """Check a small random model of a family, in a number format and on a device.

    Raises:
        WheelsError: where transformers has no such family, or a small model of it cannot be made.
    """
    config = small_config(family)
    if (reason := refusal(config)) is not None:
        return Checked(family, kind_of(config), "", None, {}, TEXTS, refused=reason)
    model, tokenizer = small_model(family), small_tokenizer(ends_source=config.is_encoder_decoder)
    placed: Any = model
    return check_model(family, placed.to(check_device(device), DTYPES[dtype]), tokenizer, small_texts(TEXTS))


def check_folder(folder: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Checked:
    """Check a model of a folder or the Hub, in a number format and on a device, on English sentences.

    Raises:
        WheelsError: where it cannot be loaded.
    """
    config = load_config(folder)
    if (reason := refusal(config)) is not None:
        return Checked(str(folder), kind_of(config), "", None, {}, TEXTS, refused=reason)
    return check_model(str(folder), load_model(folder, dtype=dtype, device=device), load_tokenizer(folder), SENTENCES)


@torch.no_grad()
def check_model(name: str, model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str]) -> Checked:
    """Compare what the engine writes with a model to what its own `generate` writes of each text alone.

    A twin of the model with noise in its weights drafts, so that drafts are taken back and read again.

    Raises:
        WheelsError: where its own `generate` fails.
    """
    kind = kind_of(model.config)
    window = next((size for size in layer_windows(model.config) if size is not None), None)
    alone = Pair.alone(model, tokenizer)
    drafted = Pair(twin_of(model), model, tokenizer)
    try:
        expected = [own_tokens(alone, ids) for ids in alone.encode(texts)]
    except Exception as error:
        if isinstance(error, WheelsError) or is_of_machine(error):
            raise
        told = f"{type(error).__name__}: {first_line(error)}"
        raise WheelsError(f"{name}: its own generate, with which texts are compared, ends with {told}") from error
    equal, accepted = {}, [0, 0]
    try:
        for batch in BATCHES:
            params = DecodeParams(max_new_tokens=TOKENS)
            plain = decode(alone, texts, teacher_only(), params, batch_size=batch)
            traces = decode(drafted, texts, speculative(DRAFT), params, batch_size=batch)
            written = zip(plain, traces, expected, strict=True)
            equal[str(batch)] = sum(one.token_ids == two.token_ids == own for one, two, own in written)
            accepted[0] += sum(trace.accepted for trace in traces)
            accepted[1] += sum(trace.checked for trace in traces)
    except FamilyRefused as error:
        return Checked(name, kind, "", window, {}, len(texts), refused=error.reason)
    path = "fast" if has_fast_path(model) else "library"
    share = accepted[0] / accepted[1] if accepted[1] else None
    return Checked(name, kind, path, window, equal, len(texts), share)


def own_tokens(pair: Pair, ids: list[int]) -> tuple[int, ...]:
    """Return what a model's own `generate` writes greedily after one text, up to its end token."""
    read = torch.tensor([ids], device=pair.device)
    model: Any = pair.teacher
    written = model.generate(
        input_ids=read,
        attention_mask=torch.ones_like(read),
        max_new_tokens=TOKENS,
        do_sample=False,
        num_beams=1,
        pad_token_id=pair.pad_id,
    )
    tokens = written[0, len(pair.start_ids) if pair.is_seq2seq else len(ids) :].tolist()
    ends = (place for place, token in enumerate(tokens, 1) if token in pair.eos_ids)
    return tuple(tokens[: next(ends, len(tokens))])


def twin_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model with noise in its weights."""
    twin = copy.deepcopy(model)
    generator = torch.Generator(device=model.device).manual_seed(0)
    for weight in twin.parameters():
        if weight.dim() > 1:
            noise = torch.randn(weight.shape, generator=generator, device=weight.device, dtype=weight.dtype)
            weight.add_(noise * NOISE * weight.std())
    return twin
