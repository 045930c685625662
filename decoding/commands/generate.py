"""The parts of `wheels generate`: models, method, outputs in order, and how each is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

from wheels.config.fields import loading_of, weights_of
from wheels.data.prompts import chosen_prompt
from wheels.decoding.across.pair import load_pair
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.memory import Texts, rows_for
from wheels.decoding.methods.calibrated import rule_of
from wheels.decoding.methods.choices import BUDGETED, DRAFT_LENGTHS, TOLERANCES
from wheels.decoding.methods.method import (
    Method,
    bild,
    cascade,
    deferral,
    priced,
    prompt_lookup,
    speculative,
    take_back,
    verified,
)
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.prices import Prices
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.render import Summary, as_json, as_text
from wheels.decoding.sampling import Sampling
from wheels.decoding.streaming import Spent, in_order
from wheels.decoding.trace import Trace
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.models.loading import set_loading
from wheels.output.progress import Progress
from wheels.output.streams import remark, say

PART = 4096
"""Texts after which online mode lets all end: what it has spent is then all that a later text depends on."""


def many(config: GenerateConfig, sources: Sized) -> bool:
    """Return whether the texts are worth a bar."""
    return len(sources) > config.batch_size


def count(trace: Trace, used: Summary, progress: Progress) -> None:
    """Take in an output: what it cost, how far the work is; say why there is none."""
    if trace.error:
        say(f"skipped: {trace.error}")
    used.add([trace])
    progress.advance()


def summed_up(config: GenerateConfig, used: Summary) -> str:
    """Return the line on the teacher's use, with weights that are not left in the models' own number format."""
    if {*weights_of(config).values()} == {"float32"}:
        return str(used)
    return f"{used}; weights: student {config.student_weights}, teacher {config.teacher_weights}"


def load_artefact(config: GenerateConfig, *, conversations: bool = False) -> Artefact:
    """Return the models that write: a trained model's, or a student and a teacher that were never trained together.

    Args:
        config: names them, and says what they read of a text.
        conversations: whether the texts are conversations.
    """
    set_loading(attn_implementation=config.attn_implementation, trust_remote_code=config.trust_remote_code)
    place, teacher = loading_of(config), config.teacher_model if config.is_remote else config.teacher
    if config.is_remote:
        place["load_pair"] = partial(RemotePair.load, remote=remote_teacher(config))
    else:
        place["load_pair"] = partial(load_pair, span=config.span)
    if config.student is not None and teacher is not None:
        artefact = Artefact.untrained(config.student, teacher, **place)
    else:
        artefact = Artefact.load(config.model, teacher=teacher, **place)
    artefact.pair.read_by(chosen_prompt(config, artefact.pair.prompt, conversations=conversations))
    return artefact


def remote_teacher(config: GenerateConfig) -> RemoteTeacher:
    """Return the teacher behind the address that a configuration gives."""
    return RemoteTeacher(
        str(config.teacher),
        str(config.teacher_model),
        key_variable=config.teacher_key,
        timeout=config.teacher_timeout,
        attempts=config.teacher_attempts,
        prompt=config.teacher_prompt,
        span=config.span,
        write_on=config.write_on,
        prices=Prices.of(config.prices) if config.prices else None,
        budget_dollars=config.budget_dollars,
        max_teacher_requests=config.max_teacher_requests,
        max_teacher_tokens=config.max_teacher_tokens,
        ledger=config.ledger,
        on_error=config.on_teacher_error,
    )


def within_memory(config: GenerateConfig, artefact: Artefact, sources: Texts) -> GenerateConfig:
    """Return the configuration with as many rows as its bound of tokens allows; say what memory they need, if much."""
    rows = rows_for(artefact.pair, sources, config.max_new_tokens, config.batch_size, config.max_tokens_in_flight)
    return replace(config, batch_size=rows)


def generate(
    config: GenerateConfig,
    artefact: Artefact,
    sources: Iterable[str],
    *,
    first: int = 0,
    spent: Spent | None = None,
    total: int | None = None,
) -> Iterator[Trace]:
    """Write an output for each source, and yield the traces in order.

    Args:
        config: How.
        artefact: With which models.
        sources: The texts; any number.
        first: The number of the first of them: draws depend on it.
        spent: What online mode goes on from; it is kept up to date after each `PART` texts.
        total: How many sources there are, over which dollars are spread.
    """
    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    method = method_of(config, artefact)
    online, rest = config.budget_mode == "online", iter(sources)
    settings: dict[str, Any] = {"batch_size": config.batch_size, "on_error": config.on_error, "total": total}
    spent = {} if spent is None else spent
    for head in rest:
        part = chain([head], islice(rest, PART - 1) if online else rest)
        params = DecodeParams(max_new_tokens=config.max_new_tokens, sampling=sampling, seed=config.seed, first=first)
        yield from in_order(artefact.pair, part, method, params, spent=spent, **settings)
        first += PART
    if isinstance(artefact.pair, RemotePair):
        remark(f"teacher: {artefact.pair.remote.ledger}")


def method_of(config: GenerateConfig, artefact: Artefact) -> Method:
    """Return the way of decoding that was asked for."""
    if config.method in BUDGETED:
        return _ruled(config, artefact)
    draft = config.draft_length or DRAFT_LENGTHS[config.method]
    tolerance = TOLERANCES[config.method] if config.tolerance is None else config.tolerance
    if config.method == "bild":
        return bild(config.fallback, tolerance, draft)
    if config.method == "cascade":
        return cascade(config.cascade, tolerance, draft)
    if config.method == "take-back":
        return take_back(draft, tolerance)
    make = speculative if config.method == "speculative" else prompt_lookup
    return make(draft, lenience=tolerance, adaptive=config.adaptive_draft)


def _ruled(config: GenerateConfig, artefact: Artefact) -> Method:
    """Return the way of decoding of a rule and its teacher budget."""
    rule, budget, mode = rule_of(artefact, config.rule, config.seed), config.budget, config.mode
    if config.method == "deferral":
        return deferral(rule, budget, mode)
    tolerance = TOLERANCES[config.method] if config.tolerance is None else config.tolerance
    draft, complete = config.draft_length, config.verify_end
    if config.method == "verified":
        return verified(rule, budget, mode, tolerance=tolerance, draft=draft, complete=complete)
    if not rule.in_nats:
        priced_by = ", ".join(known.name for known in RULES.values() if known.in_nats)
        raise WheelsError(
            f"method 'priced' needs a rule whose threshold is a price in nats ({priced_by}), got {config.rule!r}"
        )
    return priced(rule, budget, mode, scale=tolerance, draft=draft, complete=complete)


def render(config: GenerateConfig, trace: Trace, *, one_line: bool) -> str:
    """Return an output as text or JSON; `one_line`: each text on a line of its own."""
    if config.format in ("json", "parquet"):
        return as_json([trace])
    return as_text(trace, color=wants_color(config), one_line=one_line) + "\n"


def wants_color(config: GenerateConfig) -> bool:
    """Tell whether the teacher's tokens are to stand out; `NO_COLOR` is honoured (https://no-color.org)."""
    if config.color != "auto":
        return config.color == "always"
    return config.output is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
