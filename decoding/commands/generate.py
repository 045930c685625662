"""`wheels generate`: texts in, texts out, and what the teacher was used for."""

from __future__ import annotations

import os
import sys

import torch
from tqdm import tqdm

from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.commands.inputs import read_sources
from wheels.decoding.engine import decode
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.method import (
    Method,
    bild,
    cascade,
    deferral,
    prompt_lookup,
    speculative,
    verified,
)
from wheels.decoding.params import DecodeParams
from wheels.decoding.render import as_html, as_json, as_text, summary
from wheels.decoding.sampling import Sampling
from wheels.decoding.trace import Trace
from wheels.files import check_writable, write_text
from wheels.models.artefact import Artefact
from wheels.streams import say


def run(config: GenerateConfig) -> None:
    """Write an output for each text; see `GenerateConfig`.

    The outputs go to standard output or `--output`; the line that sums up the teacher's use goes to standard error, so
    that a pipe carries the outputs alone.
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
        say(f"written to {config.output}")
    else:
        sys.stdout.write(shown)
        sys.stdout.flush()
    if config.format == "text" or config.output is not None:
        print(summary(traces), file=sys.stderr)


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

    def tolerance(default: float) -> float:
        return default if config.tolerance is None else config.tolerance

    draft = config.draft_length
    if config.budget is not None:
        rule = calibrated(artefact, config.rule, config.budget, config.seed, config.budget_mode)
        if config.method == "deferral":
            return deferral(rule, config.budget, config.budget_mode)
        return verified(rule, config.budget, config.budget_mode, tolerance=tolerance(2.0), draft=draft)
    if config.method == "bild":
        return bild(config.fallback, tolerance(3.0), draft or 10)
    if config.method == "cascade":
        return cascade(config.cascade, tolerance(0.3), draft or 5)
    make = speculative if config.method == "speculative" else prompt_lookup
    return make(draft or 5, lenience=tolerance(0.0), adaptive=config.adaptive_draft)


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
