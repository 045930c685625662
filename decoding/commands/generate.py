"""`wheels generate`: texts in, texts out, and what the teacher was used for."""

from __future__ import annotations

import os
import sys

import torch
from tqdm import tqdm

from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.commands.inputs import read_sources
from wheels.decoding.engine import decode
from wheels.decoding.methods.calibrated import rule_of
from wheels.decoding.methods.choices import DRAFT_LENGTHS, TOLERANCES
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
from wheels.decoding.render import as_html, as_json, as_text, summary
from wheels.decoding.sampling import Sampling
from wheels.decoding.trace import Trace
from wheels.errors import WheelsError
from wheels.files import check_writable, write_text
from wheels.models.artefact import Artefact
from wheels.output.streams import remark, say


def run(config: GenerateConfig) -> None:
    """Write an output for each text; see `GenerateConfig`.

    The outputs go to standard output or `--output`; the line that sums up the teacher's use goes to standard error, so
    that a pipe carries the outputs alone; `--quiet` leaves it out.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.output is not None:
        check_writable(config.output)
    sources = read_sources(config)
    artefact = load_artefact(config)
    traces = generate(config, artefact, sources)
    for error in filter(None, (trace.error for trace in traces)):
        say(f"skipped: {error}")
    shown = render(config, artefact, sources, traces)
    if config.output is not None:
        write_text(config.output, shown)
        remark(f"written to {config.output}")
    else:
        sys.stdout.write(shown)
        sys.stdout.flush()
    if config.format == "text" or config.output is not None:
        remark(summary(traces))


def load_artefact(config: GenerateConfig) -> Artefact:
    """Return the models that write: a trained model's, or a student and a teacher that were never trained together."""
    place = {"device": config.device, "dtype": config.dtype}
    if config.student is not None and config.teacher is not None:
        return Artefact.untrained(config.student, config.teacher, **place)
    return Artefact.load(config.model, teacher=config.teacher, **place)


def generate(config: GenerateConfig, artefact: Artefact, sources: list[str]) -> list[Trace]:
    """Write an output for each source, with a bar on the terminal where that takes several batches."""
    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    params = DecodeParams(max_new_tokens=config.max_new_tokens, sampling=sampling, seed=config.seed)
    several = len(sources) > config.batch_size
    with tqdm(total=len(sources), unit="text", file=sys.stderr, disable=not several or None, leave=False) as bar:
        return decode(
            artefact.pair,
            sources,
            method_of(config, artefact),
            params,
            batch_size=config.batch_size,
            progress=bar.update,
            on_error=config.on_error,
        )


def method_of(config: GenerateConfig, artefact: Artefact) -> Method:
    """Return the way of decoding that was asked for."""
    if config.budget is not None:
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
    rule, budget, mode = rule_of(artefact, config.rule, config.seed), config.budget, config.budget_mode
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


def render(config: GenerateConfig, artefact: Artefact, sources: list[str], traces: list[Trace]) -> str:
    """Return the outputs in the format that was asked for."""
    if config.format == "json":
        return as_json(traces)
    if config.format == "html":
        return as_html(traces, sources, student=artefact.student_name, teacher=artefact.teacher_name)
    color, several = wants_color(config), len(traces) > 1
    return "".join(as_text(trace, color=color, one_line=several) + "\n" for trace in traces)


def wants_color(config: GenerateConfig) -> bool:
    """Tell whether the teacher's tokens are to stand out; `NO_COLOR` is honoured (https://no-color.org)."""
    if config.color != "auto":
        return config.color == "always"
    return config.output is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
