"""Every decoding method that is timed, behind one function of prompts and batch size.

Ours run on the engine, transformers' own on `generate` (`wheels.benchmarks.speed.hf_systems`), CTranslate2's and
llama.cpp's on their own (`wheels.benchmarks.speed.ct2_systems`, `wheels.benchmarks.speed.llama_systems`). All are
greedy.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from wheels.benchmarks.speed import ct2_systems, llama_systems
from wheels.benchmarks.speed.config import CT2, LLAMA, REFERENCE
from wheels.benchmarks.speed.forward_timer import ENCODES, Shape, on_grid, wait_for
from wheels.benchmarks.speed.hf_systems import Outcome, Workload, assisted, looked_up, padded
from wheels.decoding.methods.method import (
    LONGEST_DRAFT,
    Method,
    bild,
    cascade,
    deferral,
    prompt_lookup,
    speculative,
    student_only,
    teacher_only,
    verified,
)
from wheels.decoding.methods.rule import AnyRule
from wheels.decoding.models.runner import Pass
from wheels.decoding.params import DecodeParams
from wheels.decoding.scheduler import Schedule
from wheels.decoding.streaming import decode

ALPHA = 0.5
"""Alpha of the speculative cascade (`wheels.decoding.methods.verify`): the quality that one teacher token may cost."""
REGRET = 2.0
"""Nats below the teacher's choice at which verified deferral takes a token back."""
GROUPED, LOCKSTEP = Schedule("grouped"), Schedule("lockstep")


@dataclass(frozen=True)
class System:
    """One way of decoding."""

    name: str
    run: Callable[[Workload, int], Outcome]
    """Decodes all prompts at a batch size."""
    same_as: str | None = None
    """The system whose outputs it must repeat, token by token; None: it may write something else."""
    formula: str | None = None
    """What it is held against at best: `teacher`, `student`, `deferral`, `speculation`, `best speculation`."""
    by_row: bool = False
    """Whether it takes one prompt after the other whatever the batch size."""
    needs: str | None = None
    """What it runs only with: a `rule` for the budget, or the package `ctranslate2` or `llama.cpp`."""

    def label(self, batch_size: int) -> str:
        """Return the name for a table, which says where the batch size is not kept."""
        return f"{self.name} (row by row)" if self.by_row and batch_size > 1 else self.name


def ours(make: Callable[[Workload], Method], schedule: Schedule = GROUPED) -> Callable[[Workload, int], Outcome]:
    """Return a function that runs the engine with the method of `make`."""

    def run(workload: Workload, batch_size: int) -> Outcome:
        method = make(workload)
        prompts = workload.prompts
        journal: dict[str, list[Pass]] = {}
        wait_for(prompts.pair.device)
        start = time.perf_counter()
        traces = decode(
            prompts.pair,
            prompts.texts,
            method,
            DecodeParams(max_new_tokens=prompts.max_new_tokens),
            batch_size=batch_size,
            schedule=schedule,
            journal=journal,
        )
        wait_for(prompts.pair.device)
        seconds = time.perf_counter() - start
        return Outcome(
            outputs=[trace.token_ids for trace in traces],
            seconds=seconds,
            passes=shapes_of(journal, method),
            teacher_tokens=sum(trace.teacher_tokens for trace in traces),
            drafted=sum(trace.drafted for trace in traces),
            accepted=sum(trace.accepted for trace in traces),
            checked=sum(trace.checked for trace in traces),
            forward_seconds=math.fsum(each.seconds for passes in journal.values() for each in passes) or None,
        )

    return run


def shapes_of(journal: dict[str, list[Pass]], method: Method) -> Counter[Shape]:
    """Count the forward passes of a decode by what their time depends on."""
    counts: Counter[Shape] = Counter()
    for model, passes in journal.items():
        for each in passes:
            scored = _scored(each, method) if model == "teacher" else 1
            head = 0 if each.kind in ENCODES else scored
            # Rows that read different amounts stand in one line: the bare pass is a rectangle of as many tokens.
            width = max(1, round(each.tokens / each.rows), head)
            counts[Shape(model, each.kind, each.rows, width, on_grid(each.context), head)] += 1
    return counts


def _scored(each: Pass, method: Method) -> int:
    """Return how many last positions a teacher pass had to score: of a draft all, else one."""
    if method.verifier is None:
        return 1
    if method.draft is None:
        # Of a draft without a limit the journal does not tell where it begins behind a prompt.
        return each.width if each.context else 1
    return min(each.width, (LONGEST_DRAFT if method.adaptive else method.draft) + 1)


def _rule(workload: Workload) -> AnyRule:
    """Return the rule of the workload: who asks needs one."""
    assert workload.rule is not None, "a system that needs a rule runs only where there is one"
    return workload.rule


def _deferral(workload: Workload) -> Method:
    """Return deferral at the budget."""
    return deferral(_rule(workload), workload.budget)


IN_ORDER = (
    System("hf-teacher", padded("teacher"), None, "teacher"),
    System("hf-student", padded("student"), None, "student"),
    System("hf-assisted", lambda workload, _: assisted(workload.prompts, workload.draft), REFERENCE, by_row=True),
    System("hf-lookup", lambda workload, _: looked_up(workload.prompts, workload.draft), REFERENCE, by_row=True),
    *(
        System(name, engine.alone(model, weights), needs=package)
        for engine, package, names in ((ct2_systems, "ctranslate2", CT2), (llama_systems, "llama.cpp", LLAMA))
        for name, (model, weights) in zip(names, product(("teacher", "student"), ("float32", "int8")), strict=True)
    ),
    System("teacher", ours(lambda _: teacher_only()), REFERENCE, "teacher"),
    System("student", ours(lambda _: student_only()), "hf-student", "student"),
    System("deferral", ours(_deferral), None, "deferral", needs="rule"),
    System("deferral-lockstep", ours(_deferral, LOCKSTEP), None, "deferral", needs="rule"),
    System("speculative", ours(lambda workload: speculative(workload.draft)), REFERENCE, "speculation"),
    System(
        "speculative-adaptive",
        ours(lambda workload: speculative(workload.draft, adaptive=True)),
        REFERENCE,
        "best speculation",
    ),
    System("lookup", ours(lambda workload: prompt_lookup(workload.draft)), REFERENCE),
    System("bild", ours(lambda _: bild())),
    System("cascade-opt", ours(lambda workload: cascade("opt", ALPHA, workload.draft))),
    System(
        "verified",
        ours(lambda workload: verified(_rule(workload), workload.budget, tolerance=REGRET)),
        needs="rule",
    ),
)
KNOWN = {system.name: system for system in IN_ORDER}
"""Every system by its name, in the order of the tables."""
