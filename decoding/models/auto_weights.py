"""`auto`: which number format of a model's weights is fastest on this machine, by timing decode steps."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import cache

import torch
from transformers import PreTrainedModel

from wheels.decoding.models.backends import backend_in_use, forget
from wheels.decoding.models.kernel_times import best_times
from wheels.decoding.models.linear import multiplies_bfloat16
from wheels.decoding.models.registry import has_fast_path
from wheels.decoding.models.runner import Runner
from wheels.models.pair import name_of

log = logging.getLogger("wheels")

CONTEXT = 16
"""Positions that are read before a step is timed."""


def chosen_weights(model: PreTrainedModel, weights: str, rows: int, vocab_size: int) -> str:
    """Return the kind of weights that a runner of `rows` texts takes: `weights` itself, or the fastest for `auto`.

    Steps are timed once, and remembered by machine, model and rows. Where the model has no fast path, or not in float32
    on a CPU, `auto` is `float32`.
    """
    if weights != "auto":
        return weights
    if not has_fast_path(model, "int8"):
        return "float32"
    kinds = ["float32", "int8"]
    if multiplies_bfloat16() and backend_in_use() == "torch":  # which alone has bfloat16
        kinds.append("bfloat16")
    steps = {kind: _step(model, kind, rows, vocab_size) for kind in kinds if has_fast_path(model, kind)}
    times = best_times(f"step of {_shape(model)}, {rows} rows, {backend_in_use()}", steps)
    best = min(times, key=lambda kind: times[kind])
    forget(model, times.keys() - {best})
    log.info("weights of %s: %s, the fastest of %s at batch size %d", name_of(model), best, ", ".join(times), rows)
    return best


def _step(model: PreTrainedModel, kind: str, rows: int, vocab_size: int) -> Callable[[], object]:
    """Return a decode step of `rows` texts; the weights are laid out when it first runs."""
    token = vocab_size // 2  # any will do
    tokens_BT = torch.full((rows, CONTEXT + 1), token)
    before_B = torch.full((rows,), CONTEXT)

    @cache
    def runner() -> Runner:
        made = Runner(model, rows, vocab_size, weights=kind)
        made.admit(range(rows), [[token] * CONTEXT] * rows)
        made.read(None, tokens_BT, before_B)
        return made

    def step() -> None:
        runner().read(None, tokens_BT, before_B + 1)
        runner().rollback(torch.arange(rows), before_B)

    return step


def _shape(model: PreTrainedModel) -> str:
    """Return the digest of what decides a model's speed: its class and the shapes of its weights."""
    shapes = [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    return hashlib.sha256(repr((type(model).__name__, shapes)).encode()).hexdigest()[:16]
