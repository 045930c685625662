"""`auto`: which backend and number format run a model fastest on this machine, by timing its passes."""

from __future__ import annotations

import hashlib
import logging
import weakref
from importlib import metadata
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from wheels.decoding.models.backends import candidates, forget
from wheels.decoding.models.kernel_times import PASSES, best_times
from wheels.decoding.models.linear import multiplies_bfloat16
from wheels.decoding.models.registry import has_fast_path
from wheels.decoding.models.runner import Runner
from wheels.models.limits import NO_LIMIT
from wheels.models.pair import Pair, name_of

log = logging.getLogger("wheels")

CONTEXT = 16
"""Positions that are read before a pass is timed."""
READ = 6
"""Tokens that both passes read at most."""
ROWS = (1, 8, 32)
"""Texts that are timed; runners of other sizes take what is nearest, in ratio."""


class Choice(NamedTuple):
    """What runs a model."""

    backend: str
    """`torch`, `onnx` or `llama.cpp`, for the models that it can run."""
    weights: str
    """`float32`, `int8` or `bfloat16`."""

    def __str__(self) -> str:
        """Return both words."""
        return " ".join(self)


_chosen: weakref.WeakKeyDictionary[PreTrainedModel, dict[tuple[object, ...], Choice]] = weakref.WeakKeyDictionary()


def chosen(model: PreTrainedModel, weights: str, rows: int, vocab_size: int) -> Choice:
    """Return what a runner of `rows` texts takes: what was asked for, or the fastest for `auto`.

    Passes are timed once, and remembered by machine, model and rows. Where the model has no fast path, or not in
    float32 on a CPU, `auto` is torch and `float32`.

    Args:
        model: Of the library.
        weights: What was asked for; `auto` leaves it open. The backend is `use_backend`'s.
        rows: How many texts are read at a time.
        vocab_size: Tokens that it may be shown.
    """
    backends = candidates(model)
    if len(backends) == 1 and (weights != "auto" or backends[0] == "llama.cpp"):
        return Choice(backends[0], "float32" if weights == "auto" else weights)
    size = min(ROWS, key=lambda each: max(each / rows, rows / each))
    known, key = _chosen.setdefault(model, {}), (weights, size, *backends)
    if key not in known:
        choices = _choices(model, backends, weights)
        if len(choices) < 2:  # which may change: a model in training has no fast path
            return choices[0] if choices else Choice("torch", "float32" if weights == "auto" else weights)
        known[key] = _fastest(model, choices, size, vocab_size)
        told = f"{name_of(model)}: {known[key]}, the fastest of {', '.join(map(str, choices))} at batch size {size}"
        log.log(logging.INFO if weights == "auto" else logging.DEBUG, told)
    return known[key]


def choices_of(pair: Pair, rows: int) -> tuple[Choice, Choice]:
    """Return what runs the student and the teacher of a pair (`chosen`)."""
    models = (pair.student, pair.student_weights), (pair.teacher, pair.teacher_weights)
    student, teacher = (chosen(model, weights, rows, pair.vocab_size) for model, weights in models)
    return student, teacher


def _fastest(model: PreTrainedModel, choices: list[Choice], rows: int, vocab_size: int) -> Choice:
    """Return the fastest choice, as timed now or remembered; what was laid out for the others is freed."""
    timed = {str(each): _Timed(model, each, rows, vocab_size) for each in choices}
    times = best_times(f"{PASSES}{_described(model)}, batch size {rows}{_version(choices)}", timed)
    best = timed[min(times, key=times.__getitem__)].choice
    if any(each.runner for each in timed.values()):
        forget(model, [each for each in choices if each != best])
    return best


def _choices(model: PreTrainedModel, backends: list[str], weights: str) -> list[Choice]:
    """Return what can be chosen from: only torch has bfloat16, and a model may be small enough for int8 alone."""
    kinds = [weights]
    if weights == "auto":
        kinds = ["float32", "int8", *(["bfloat16"] if multiplies_bfloat16() else [])]
        kinds = kinds if has_fast_path(model, "int8") else ["float32"]
    kinds = [kind for kind in kinds if has_fast_path(model, kind)]
    both = [Choice(backend, kind) for backend in backends for kind in kinds]
    return [each for each in both if each != ("onnx", "bfloat16")]


class _Timed:
    """A decode step of some texts, and a pass that reads 2 to 5 tokens of each; weights are laid out in the first."""

    def __init__(self, model: PreTrainedModel, choice: Choice, rows: int, vocab_size: int) -> None:
        self.model, self.choice, self.rows, self.vocab_size = model, choice, rows, vocab_size
        limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        self.context = max(1, min(CONTEXT, (limit or NO_LIMIT) - READ))
        self.token = vocab_size // 2  # any will do
        self.runner: Runner | None = None
        self.tokens_BT = torch.full((rows, self.context + READ), self.token)
        self.before_B = torch.full((rows,), self.context)
        self.after_B = self.before_B + READ - torch.arange(rows) % 4

    def __call__(self) -> None:
        """Run both passes."""
        runner = self.runner or self._begin()
        runner.read(None, self.tokens_BT, self.before_B + 1)
        runner.read(None, self.tokens_BT, self.after_B)
        runner.rollback(torch.arange(self.rows), self.before_B)

    def _begin(self) -> Runner:
        """Read what lies before the passes."""
        self.runner = Runner(self.model, self.rows, self.vocab_size, **self.choice._asdict())
        self.runner.admit(range(self.rows), [[self.token] * self.context] * self.rows)
        self.runner.read(None, self.tokens_BT, self.before_B)
        return self.runner


def _version(choices: list[Choice]) -> str:
    """Return the version of what times depend on beside torch's."""
    compiled = any(each.backend == "onnx" for each in choices)
    return f", onnxruntime {metadata.version('onnxruntime')}" if compiled else ""


def _described(model: PreTrainedModel) -> str:
    """Return a model's class and size, and the digest of what decides its speed: the shapes of its weights."""
    shapes = [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    digest = hashlib.sha256(repr(shapes).encode()).hexdigest()[:8]
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    return f"{type(model).__name__} of {millions:.3g}M weights ({digest})"
