"""The cells of `wheels bench annotation`: labels are bought, a student is trained on them and scored."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import wheels
from wheels.annotation import models
from wheels.annotation.answer import Answer, without_thinking
from wheels.annotation.config import AnnotateConfig
from wheels.annotation.ledger import Ledger
from wheels.annotation.local_model import LocalModel
from wheels.annotation.pool import Annotation, AnnotationContext, annotate_pool
from wheels.annotation.purchase import Local, Responder
from wheels.benchmarks.annotation.config import AnnotationConfig, error_share, last_part
from wheels.config.parsing import build
from wheels.data.rows import Row
from wheels.data.tasks import Task
from wheels.files import write_text
from wheels.metrics import sentence_scores
from wheels.runs import cached

SHARED = (
    "student", "data", "samples", "rehearse", "temperature", "metric", "grade_quantiles", "max_new_tokens",
    "batch_size", "threads",
)  # fmt: skip
"""Settings that `wheels annotate` has too."""


@dataclass(frozen=True)
class GridPoint:
    """One strategy at one budget with one seed."""

    strategy: str
    budget: int
    warm_up: float
    """Share of the budget that is spent at random first; 0: one stage."""
    teacher: str
    """A folder, or references with errors."""
    assistant: str
    seed: int
    """Of rows, errors, samples and training."""

    def described(self) -> dict[str, Any]:
        """Return everything but the seed, as values of JSON."""
        plain = {name: getattr(self, name) for name in ("strategy", "budget", "warm_up")}
        return plain | {role: last_part(getattr(self, role)) for role in ("teacher", "assistant")}

    @property
    def name(self) -> str:
        """The name of its folder."""
        parts = (self.strategy, self.budget, f"{self.warm_up:g}", last_part(self.teacher), last_part(self.assistant))
        return "_".join(map(str, (*parts, self.seed))).replace("/", "-").replace(":", "-")


def grid(config: AnnotationConfig) -> list[GridPoint]:
    """Return every cell: all strategies at all budgets, then the ablations of 'full' at the middle budget.

    Seeds of one group follow each other, so that an interrupted run has whole comparisons.
    """
    found: dict[GridPoint, None] = {}

    def add(strategy: str, budget: int, warm_up: float, teacher: str, assistant: str) -> None:
        one_stage = strategy.startswith("random")
        for seed in range(config.seeds):
            found[GridPoint(strategy, budget, 0.0 if one_stage else warm_up, teacher, assistant, seed)] = None

    main, first = config.teachers[0], config.assistants[0]
    # 'assistant' before 'consistency', which takes over its warm-up and its samples.
    ordered = sorted(config.strategies, key=lambda strategy: strategy == "consistency")
    for budget in config.budgets:
        for strategy in ordered:
            add(strategy, budget, config.warm_up, main, first)
    if "full" in config.strategies:
        for warm_up in config.warm_ups:
            add("full", config.middle, warm_up, main, first)
        for assistant in config.assistants[1:]:
            add("full", config.middle, config.warm_up, main, assistant)
    for teacher in config.teachers[1:]:
        for strategy in ordered:
            add(strategy, config.middle, config.warm_up, teacher, first)
    return list(found)


@dataclass(frozen=True)
class Bench:
    """What all cells share."""

    config: AnnotationConfig
    task: Task
    pool: list[Row]
    """The rows to be annotated, each source once, with the references that labels are held against."""

    @property
    def output(self) -> Path:
        """The folder."""
        return Path(self.config.output)

    @cached_property
    def test(self) -> list[Row]:
        """The rows that students are scored on."""
        return self.task.test[: self.config.test_limit]

    def settings(self, cell: GridPoint, folder: Path) -> AnnotateConfig:
        """Return a cell in the words of `wheels annotate`."""
        config = self.config
        select = {"full": "assistant", "random+filter": "random"}.get(cell.strategy, cell.strategy)
        given = {name: getattr(config, name) for name in SHARED}
        given |= {name: getattr(cell, name) for name in ("teacher", "assistant", "warm_up", "seed")}
        given |= {"input": config.pool, "output": str(folder), "annotation_budget": cell.budget, "select": select}
        given |= {"filter": cell.strategy in ("full", "random+filter"), "retrain": str(self.output / "retrain.yaml")}
        return build(AnnotateConfig, given)

    def labeller(self, cell: GridPoint, settings: AnnotateConfig) -> Callable[[Sequence[str]], list[Answer]]:
        """Return the teacher of a cell: sources in, labels out."""
        share = error_share(cell.teacher)
        if share is None:
            return models.load_local(settings, cell.teacher, "teacher").labels
        labels = with_errors(self.pool, share, self.config.metric, cell.seed)
        table = {row.source: Answer(label) for row, label in zip(self.pool, labels, strict=True)}
        return lambda sources: [table[source] for source in sources]

    def responder(self, cell: GridPoint, settings: AnnotateConfig) -> Responder:
        """Return the teacher of a cell, to be asked a batch at a time."""
        return Local(self.labeller(cell, settings), self.config.batch_size)

    def signature(self, cell: GridPoint) -> str:
        """Return the signature that identifies a figure."""
        rows = (self.task.name, f"n={len(self.test)}", f"pool={len(self.pool)}")
        student, teacher, assistant = map(last_part, (self.config.student, cell.teacher, cell.assistant))
        spent = (cell.strategy, f"budget={cell.budget}", f"warm-up={cell.warm_up:g}", f"seed={cell.seed}")
        return "|".join([*rows, student, teacher, f"assistant={assistant}", *spent, f"wheels:{wheels.__version__}"])


def write_retraining(config: AnnotationConfig) -> None:
    """Write the settings of every training as the file that `--retrain` takes."""
    lines = [f"epochs: {config.epochs}", f"learning_rate: {config.learning_rate}", f"batch_size: {config.train_batch}"]
    write_text(Path(config.output) / "retrain.yaml", "\n".join([*lines, "eval_limit: 0", ""]))


def run_cell(bench: Bench, cell: GridPoint) -> dict[str, Any]:
    """Return the result of a cell, from its file where it was run before.

    `answers`: the final student's output for each test row; `labels`: each annotation with its grade, whether it was
    let through, whether it is right, and its score, 0 to 100, against the reference.
    """
    folder = bench.output / "cells" / cell.name
    return cached(folder / "cell.json", None, partial(_run, bench, cell, folder))


def _run(bench: Bench, cell: GridPoint, folder: Path) -> dict[str, Any]:
    """Buy, train and score a cell."""
    settings = bench.settings(cell, folder)
    _take_over(bench, cell, folder)
    labelled = bench.task.train if bench.config.rehearse else []
    train = partial(models.retrain, settings, labelled, bench.task.validation)
    with Ledger(folder / "ledger.jsonl", budget=cell.budget, run=cell.name) as ledger:
        context = AnnotationContext(
            pool=[row.source for row in bench.pool],
            teacher=bench.responder(cell, settings),
            teacher_prompt=str,
            load_student=partial(models.load_local, settings, role="student"),
            load_assistant=_assistant(bench, cell, settings),
            retrain=train,
        )
        annotations = annotate_pool(settings, context, folder, ledger)
    rows = [Row(one.source, one.target) for one in annotations if one.accepted]
    model = models.load_local(settings, train(rows, folder / "final"), "student")
    answers = model.answers([row.source for row in bench.test])
    facts = {"signature": bench.signature(cell), "accepted": len(rows), "answers": answers}
    return asdict(cell) | facts | {"labels": score_labels(bench, annotations)}


def _assistant(bench: Bench, cell: GridPoint, settings: AnnotateConfig) -> Any:
    """Return the factory of a cell's assistant; None for a strategy without one."""
    if cell.strategy in ("random", "consistency"):
        return None
    model = _loaded(cell.assistant, settings.max_new_tokens, settings.batch_size)
    return lambda student: models.calibrate(settings, model, student, bench.task.validation)


@lru_cache(maxsize=4)
def _loaded(folder: str, max_new_tokens: int, batch_size: int) -> LocalModel:
    """Load an assistant once for all cells."""
    return LocalModel.load(folder, role="assistant", max_new_tokens=max_new_tokens, batch_size=batch_size)


def _take_over(bench: Bench, cell: GridPoint, folder: Path) -> None:
    """Copy the warm-up labels and the samples of 'assistant' for 'consistency': neither depends on grades."""
    twin = bench.output / "cells" / replace(cell, strategy="assistant").name
    if cell.strategy != "consistency" or not (twin / "cell.json").is_file():
        return
    for file in [*twin.glob("warm-up/annotations.json*"), *twin.glob("main/signals/*")]:
        target = folder / file.relative_to(twin)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def score_labels(bench: Bench, annotations: Sequence[Annotation]) -> list[dict[str, Any]]:
    """Score each annotation against its reference."""
    references = {row.source: row.target for row in bench.pool}
    wanted = [references[one.source] for one in annotations]
    scores = sentence_scores(bench.config.metric, [one.target for one in annotations], wanted)
    return [
        {"stage": one.stage, "grade": one.grade, "accepted": one.accepted, "score": round(score, 3)}
        | {"right": is_right(one.target, reference, bench.config.metric)}
        for one, reference, score in zip(annotations, wanted, scores, strict=True)
    ]


def filter_trial(bench: Bench, assistant: str, teacher: str, seed: int) -> list[dict[str, Any]]:
    """Return the whole pool with a teacher's labels, each graded; from its file where it was done before.

    The filter alone, without selection or training. Grades are calibrated for the untrained student.
    """
    cell = GridPoint("filter", len(bench.pool), 0.0, teacher, assistant, seed)
    file = bench.output / "cells" / cell.name / "labels.json"

    def make() -> list[dict[str, Any]]:
        settings = bench.settings(replace(cell, strategy="random+filter"), file.parent)
        student = models.load_local(settings, bench.config.student, "student")
        grader = _assistant(bench, cell, settings)(student)
        sources = [row.source for row in bench.pool]
        labels = [without_thinking(answer) for answer in bench.labeller(cell, settings)(sources)]
        grades = grader.grade(sources, [label.text for label in labels], lambda _: None)
        annotations = [
            Annotation(row.source, label.text, grade, None, None, "filter", label.flaw, label.thought)
            for row, label, grade in zip(bench.pool, labels, grades, strict=True)
        ]
        return score_labels(bench, annotations)

    return cached(file, None, make)


TRIES = 50
"""Other rows that are looked at for a label that is wrong; a pool of one label only has none."""


def with_errors(rows: Sequence[Row], share: float, metric: str, seed: int) -> list[str]:
    """Return a label for each row: its reference, or for `round(share * len(rows))` of them that of another row.

    The rows are drawn at random, and the other row too, among those whose reference is not right here by `metric`.
    """
    generator = np.random.default_rng([seed, 11])
    labels = [row.target for row in rows]
    for place in generator.permutation(len(rows))[: round(share * len(rows))]:
        for other in generator.integers(len(rows), size=TRIES):
            candidate = rows[other].target
            if not is_right(candidate, rows[place].target, metric):
                labels[place] = candidate
                break
    return labels


def is_right(label: str, reference: str, metric: str) -> bool:
    """Whether a label is the reference: by value or word for word; of free text, letter for letter."""
    closed = metric if metric in ("exact", "equation") else "exact"
    return sentence_scores(closed, [label], [reference])[0] == 100.0
