"""What forward passes cost on this machine, measured in about a second, and what the scheduler makes of it."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from wheels.decoding.methods.draft_length import line
from wheels.decoding.models.auto import Choice, choices_of
from wheels.decoding.models.forward_batches import OVERHEAD
from wheels.decoding.models.runner import Runner
from wheels.decoding.sampling import argmax
from wheels.models.devices import device_of
from wheels.models.pair import Pair

SECONDS = 1.0
"""About what a measurement takes at most: for slow models the batch sizes in between are left out."""
CONTEXT = 24
"""Positions that are read before a pass is timed."""
GAP = 5
"""Tokens that the teacher reads when it is called: the distance of two calls at a teacher use of 0.2."""
TOLERANCE = 1.05
"""A group is large enough where a row costs at most this many times what it costs in the best group."""


@dataclass(frozen=True)
class Costs:
    """Seconds of forward passes."""

    student: dict[int, float] = field(default_factory=dict)
    """One token in each of b rows: `t_q(b, 1)`."""
    teacher: dict[tuple[int, int], float] = field(default_factory=dict)
    """k tokens in each of b rows: `t_p(b, k)`."""

    def group(self, batch_size: int) -> int:
        """Return how many rows should wait for a teacher pass: the fewest whose cost per row is near the best."""
        share = {b: t / b for (b, k), t in self.teacher.items() if k == GAP and b <= batch_size}
        if not share:
            return batch_size
        return min(b for b, seconds in share.items() if seconds <= TOLERANCE * min(share.values()))

    def overhead(self) -> int:
        """Return the fixed cost of a teacher pass, in tokens."""
        ends = sorted((b * k, t) for (b, k), t in self.teacher.items())
        if len(ends) < 2 or ends[-1][1] <= ends[0][1]:
            return OVERHEAD
        (first, least), (last, most) = ends[0], ends[-1]
        each = (most - least) / (last - first)
        return int(min(max(least / each - first, 1), 4096))

    def draft_costs(self, longest: int) -> tuple[float, tuple[float, ...]]:
        """Return `t_q` and `t_p(1), ..., t_p(longest + 1)` at batch size 1, to choose the draft length."""
        points = sorted((k, t) for (b, k), t in self.teacher.items() if b == 1)
        return self.student[1], line(points, longest + 1)


_measured: weakref.WeakKeyDictionary[PreTrainedModel, dict[tuple[int, Choice, Choice], Costs]] = (
    weakref.WeakKeyDictionary()
)


def costs_of(pair: Pair, batch_size: int) -> Costs:
    """Return the costs of a pair's passes, measured on the first request for this batch size."""
    known, key = _measured.setdefault(pair.teacher, {}), (batch_size, *choices_of(pair, batch_size))
    if key not in known:
        known[key] = measure(pair, batch_size)
    return known[key]


def measure(pair: Pair, batch_size: int) -> Costs:
    """Time both models at batch sizes 1, `batch_size`, half of it, a quarter, ... until the time is up."""
    student_choice, teacher_choice = choices_of(pair, batch_size)
    limit = pair.source_limit
    context = CONTEXT if limit is None else max(1, min(CONTEXT, limit - GAP - 1))
    student: dict[int, float] = {}
    teacher: dict[tuple[int, int], float] = {}
    halves = [batch_size // 2**power for power in range(batch_size.bit_length())]
    start = time.perf_counter()
    for rows in dict.fromkeys([1, *halves]):
        if len(student) >= 2 and time.perf_counter() - start > SECONDS:
            break
        student[rows] = _best(pair, pair.student, rows, context, 1, student_choice)
        for width in (1, GAP) if rows == 1 else (GAP,):
            teacher[rows, width] = _best(pair, pair.teacher, rows, context, width, teacher_choice)
    return Costs(student, teacher)


def _best(pair: Pair, model: PreTrainedModel, rows: int, context: int, width: int, choice: Choice) -> float:
    """Return the best of three times of a pass."""
    runner = Runner(model, rows, pair.vocab_size, **choice._asdict())
    token = pair.vocab_size // 2  # any will do
    runner.admit(range(rows), [[token] * context] * rows)
    tokens_BT = torch.full((rows, context + width), token, device=device_of(model))
    before_B = torch.full((rows,), context, device=device_of(model))
    runner.read(None, tokens_BT, before_B)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        argmax(runner.read(None, tokens_BT, before_B + width).logits_RV).tolist()
        best = min(best, time.perf_counter() - start)
        runner.rollback(torch.arange(rows, device=device_of(model)), before_B)
    return best
