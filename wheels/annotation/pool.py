"""Labels bought under a budget, with a teaching assistant in the loop (Zhou & Ai 2024, 2406.05322).

Two stages: a first share of the budget is spent at random and the student is retrained on it, so that its doubts mean
something; the rest is spent where the student or its assistant doubts. What the assistant does not trust is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from wheels.annotation.answer import Answer, without_thinking
from wheels.annotation.assistant import Assistant
from wheels.annotation.config import AnnotateConfig
from wheels.annotation.grades import ACCEPTED, GRADES
from wheels.annotation.ledger import Ledger
from wheels.annotation.purchase import Responder
from wheels.annotation.selection import Signal, choose, consistency
from wheels.data.rows import Row
from wheels.json_text import json_digest
from wheels.runs import cached, chunks

CHUNK = 256
"""Rows per file of signals: what a run that is cut short may lose."""


@dataclass(frozen=True)
class Annotation:
    """One row that was sent to the teacher."""

    source: str
    """What was to be labelled."""
    target: str
    """The teacher's annotation."""
    grade: int | None
    """The assistant's grade of it, 0 (very confident) to 3 (wrong answer); None: it was not asked."""
    consistency: float | None
    """The student's self-consistency when the row was chosen; None: it was chosen at random."""
    student_grade: int | None
    """The assistant's grade of the student's answer then; None: it was not asked."""
    stage: str
    """`warm-up` or `main`."""
    flaw: str | None = None
    """Why it is no label, whatever its grade; see `Answer`."""
    thought: bool = False
    """Whether a thinking part was taken out of it."""

    @property
    def accepted(self) -> bool:
        """Whether it enters the training set: a complete label and, with a filter, a confident assistant."""
        return self.flaw is None and (self.grade is None or self.grade in ACCEPTED)


@dataclass(frozen=True)
class SelectionStage:
    """A share of the budget, and how it is spent."""

    name: str
    """`warm-up` or `main`."""
    budget: int
    """Annotations."""
    select: str


class Student(Protocol):
    """Samples answers; see `LocalModel.samples`."""

    def samples(self, sources: Sequence[str], count: int, *, temperature: float, seed: int) -> list[list[str]]:
        """Return `count` sampled answers to each source."""
        ...


@dataclass(frozen=True)
class AnnotationContext:
    """The pool and the models of one run."""

    pool: Sequence[str]
    """The unlabelled sources, each once."""
    teacher: Responder
    """Writes annotations."""
    teacher_prompt: Callable[[str], str]
    """What the teacher is asked for a source."""
    load_student: Callable[[str], Student]
    """Loads the student from a folder."""
    load_assistant: Callable[[Student | None], Assistant] | None
    """Makes the assistant, its grades calibrated for a student; None: there is none."""
    retrain: Callable[[Sequence[Row], Path], str]
    """Trains the student on labelled rows and these into a folder, and returns it."""


def stages_of(config: AnnotateConfig, first_budget: int | None = None) -> list[SelectionStage]:
    """Return the stages in order, without those that have no budget.

    The warm-up is a share of the budget that the run began with; what a budget has grown by goes to the main stage.
    """
    first = config.warm_up_of(first_budget or config.annotation_budget)
    stages = [
        SelectionStage("warm-up", first, "random"),
        SelectionStage("main", config.annotation_budget - first, config.select),
    ]
    return [stage for stage in stages if stage.budget]


def annotate_pool(config: AnnotateConfig, context: AnnotationContext, folder: Path, ledger: Ledger) -> list[Annotation]:
    """Spend the budget and return every annotation that was paid for, in the order of choice.

    Each part leaves its result in `folder`; an interrupted run resumes after the last one.

    Raises:
        WheelsError: whatever the teacher, the assistant or the retraining raises.
    """
    found: list[Annotation] = []
    student_folder, stages = config.student or "", stages_of(config, ledger.account.first_budget)
    for stage in stages:
        place = folder / stage.name
        make = partial(_run_stage, config, context, stage, student_folder, place, ledger, tuple(found))
        lines = cached(place / "annotations.json", {"budget": stage.budget}, make)
        found += [Annotation(**line) for line in lines]
        if stage is not stages[-1]:
            rows = [Row(one.source, one.target) for one in found if one.accepted]
            student_folder = context.retrain(rows, place)
    return found


def _run_stage(
    config: AnnotateConfig,
    context: AnnotationContext,
    stage: SelectionStage,
    student_folder: str,
    place: Path,
    ledger: Ledger,
    before: Sequence[Annotation],
) -> list[dict[str, Any]]:  # fmt: skip
    """Choose, buy and grade the rows of one stage."""
    asked = {one.source for one in before}
    rows = [row for row, source in enumerate(context.pool) if source not in asked]
    needs_student = stage.select != "random" or config.calibrates
    student = context.load_student(student_folder) if needs_student else None
    assistant = None
    if context.load_assistant is not None and (config.filter or stage.select == "assistant"):
        assistant = context.load_assistant(student)
    signals: list[Signal] | None = None
    if stage.select != "random":
        assert student is not None, "doubt needs a student"
        grader = assistant if stage.select == "assistant" else None
        signals = gather_signals(config, [context.pool[row] for row in rows], student, grader, place / "signals")
    known = dict(zip(rows, signals, strict=True)) if signals is not None else {}
    ranked = choose(stage.select, len(rows), rows=rows, seed=config.seed, signals=signals)
    prompts = (context.teacher_prompt(context.pool[row]) for row in ranked)
    with tqdm(total=min(stage.budget, len(rows)), desc=f"{stage.name}: annotations", unit="row") as bar:
        answers = context.teacher.respond(prompts, ledger, bar.update, bar.total)
    found = [
        _annotation(context.pool[row], without_thinking(answer), known.get(row), stage)
        for row, answer in zip(ranked, answers, strict=False)  # as many rows as it took
    ]
    if config.filter and assistant is not None:
        found = graded(found, assistant, stage.name)
    return [asdict(one) for one in found]


def _annotation(source: str, answer: Answer, signal: Signal | None, stage: SelectionStage) -> Annotation:
    """Return what was bought for a row, before it is graded."""
    return Annotation(
        source=source,
        target=answer.text,
        grade=None,
        consistency=signal.consistency if signal is not None else None,
        student_grade=signal.grade if signal is not None else None,
        stage=stage.name,
        flaw=answer.flaw,
        thought=answer.thought,
    )


def graded(annotations: Sequence[Annotation], assistant: Assistant, name: str) -> list[Annotation]:
    """Return annotations with the assistant's grade of each complete label."""
    there = [one for one in annotations if one.flaw is None]
    with tqdm(total=len(there), desc=f"{name}: grades", unit="row", leave=False) as bar:
        given = iter(assistant.grade([one.source for one in there], [one.target for one in there], bar.update))
    return [replace(one, grade=next(given)) if one.flaw is None else one for one in annotations]


def gather_signals(
    config: AnnotateConfig, sources: Sequence[str], student: Student, assistant: Assistant | None, folder: Path
) -> list[Signal]:
    """Return the student's answer to each source, the agreement of its samples, and the assistant's grade.

    Kept in chunks of `CHUNK` rows, each a function of its own rows and the seed.
    """

    def make(number: int) -> list[dict[str, Any]]:
        rows, seed = sources[number * CHUNK : (number + 1) * CHUNK], config.seed * 1_000_003 + number
        sampled = student.samples(rows, config.samples, temperature=config.temperature, seed=seed)
        found = [consistency(texts, config.metric) for texts in sampled]
        grades: Sequence[int | None] = [None] * len(rows)
        if assistant is not None:
            grades = assistant.grade(rows, [one.answer for one in found], lambda _: None)
        return [asdict(replace(one, grade=grade)) for one, grade in zip(found, grades, strict=True)]

    parts = chunks(folder, json_digest(sources), range(-(-len(sources) // CHUNK)), make)
    shown = tqdm(parts, desc="the student's doubts", total=-(-len(sources) // CHUNK), unit="chunk", leave=False)
    return [Signal(**line) for part in shown for line in part]


def as_record(one: Annotation) -> dict[str, Any]:
    """Return an annotation as a line of a training file, `source` and `target` first, the grade in words.

    The flaw and the removed thinking part are written only where there are any.
    """
    more = {"flaw": one.flaw} if one.flaw is not None else {}
    more |= {"thinking": "taken out"} if one.thought else {}
    return {
        "source": one.source,
        "target": one.target,
        "grade": GRADES[one.grade] if one.grade is not None else None,
        "consistency": one.consistency,
        "stage": one.stage,
        **more,
    }
