"""`wheels bench distillation`: students by labels, temperature and size, and the savings of a cached teacher.

Every student of a grid learns from one teacher, whose probabilities are scored once for all of them; each is a run of
`wheels pretrain` that goes on where it was cut short, and is scored by what it writes for the test rows. The
temperature that a student is compared at is chosen on validation rows, never on those that are scored.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import wheels
from wheels.benchmarks.core.commands import distil
from wheels.benchmarks.core.recipe import with_digests
from wheels.benchmarks.core.results import result_files, write_result
from wheels.benchmarks.core.stages import Stage, run_stages
from wheels.benchmarks.distillation.baselines import baselines
from wheels.benchmarks.distillation.config import DistillationConfig
from wheels.benchmarks.distillation.plan import DistillationPlan, Kind
from wheels.benchmarks.distillation.plot import draw
from wheels.benchmarks.distillation.summary import ModelOutputs, SweepOutputs, summarise
from wheels.benchmarks.distillation.table import as_csv, as_text
from wheels.benchmarks.distillation.texts import read_texts, write_texts
from wheels.data.tasks import SPLITS, Task, load_task
from wheels.distillation.config import PretrainConfig
from wheels.runs import claim

TEACHER = "teacher"


def texts_place(plan: DistillationPlan, name: str) -> Path:
    """Return the file of what a model of the sweep wrote for the test rows."""
    return plan.output / "sweep" / "texts" / f"{name}.json"


def run(config: DistillationConfig) -> None:
    """Run what `config` asks for; see `DistillationConfig`.

    Raises:
        WheelsError: for a recipe that does not fit, a folder that holds something else, and whatever a part raises.
    """
    plan = DistillationPlan.of(config)
    task = load_task(config.data)
    task.check_splits(SPLITS)  # what is scored at the end is looked for first
    with claim(plan.output, "bench distillation", config, {"data_digest": task.digest}):
        _run_parts(config, plan, task)


def _run_parts(config: DistillationConfig, plan: DistillationPlan, task: Task) -> None:
    """Train the teacher, then run the parts that are asked for."""
    inputs = prepare(plan, task)
    seconds: dict[str, float] = {}
    if "sweep" in config.parts:
        seconds |= run_stages(plan.output / "sweep", config, sweep_stages(plan), inputs)
    if "cache" in config.parts:
        from wheels.benchmarks.distillation.cache import cache_stages

        seconds |= run_stages(plan.output / "cached", config, cache_stages(plan, task), inputs)
    plan.end(config, seconds, data_digest=task.digest, teacher_digest=inputs["teacher"])


def prepare(plan: DistillationPlan, task: Task) -> dict[str, Any]:
    """Train the teacher where none was given, and return what all stages depend on."""
    from wheels.distillation.run import run as pretrain
    from wheels.models.loading import model_digest
    from wheels.models.places import check_place

    if plan.given_teacher is None:
        print("training the teacher, or finding it trained", flush=True)
        pretrain(plan.teacher_config())
    check_place(str(plan.teacher), "teacher")
    return {
        "command": "bench distillation",
        "wheels": wheels.__version__,
        "data_digest": task.digest,
        "teacher": model_digest(plan.teacher),
    }


def sweep_stages(plan: DistillationPlan) -> list[Stage]:
    """Return the training and writing of each student, the teacher's writing, and the table."""
    sections, texts = plan.recipe.sections, partial(texts_place, plan)
    shared = {name: sections[name] for name in ("student", "scores")} | {"cached": plan.sweep.cached_logits}
    write = partial(write_texts, plan, plan.teacher, texts(TEACHER))
    stages = [Stage(TEACHER, "writing with the teacher", (texts(TEACHER),), shared, write)]
    for kind in plan.kinds:
        for seed in range(plan.sweep.seeds):
            name = f"{kind.name}-s{seed}"
            student = plan.student_config(kind, seed, plan.output / "sweep" / "students" / name)
            settings = {"size": plan.size_settings(kind.size), "objective": student.objective, "w": student.w}
            settings = with_digests(settings, student)
            work, places = partial(train_and_write, plan, student, texts(name)), (Path(student.output), texts(name))
            stages.append(Stage(name, f"training {name}", places, settings, work, after=(TEACHER,)))
    work = partial(write_summary, plan)
    title, results = "comparing the students", result_files(plan.output, "distillation")
    settings = {"resamples": plan.sweep.resamples}
    stages.append(Stage("table", title, results, settings, work, shown=True, again=True))
    return stages


def train_and_write(plan: DistillationPlan, student: PretrainConfig, place: Path) -> None:
    """Train a student, and write the test rows with it."""
    distil(student)
    write_texts(plan, Path(student.output), place)


def measured(plan: DistillationPlan, task: Task) -> SweepOutputs:
    """Return the outputs of all models with the references."""
    rows = task.rows("test")[: plan.scores.limit]
    cells: dict[Kind, list[ModelOutputs]] = {}
    for kind in plan.kinds:
        for seed in range(plan.sweep.seeds):
            facts, texts = read_texts(texts_place(plan, f"{kind.name}-s{seed}"))
            cells.setdefault(kind, []).append(ModelOutputs(texts, facts["parameters"], facts["finished"].get("value")))
    facts, texts = read_texts(texts_place(plan, TEACHER))
    metrics = plan.scores.metrics or task.metrics
    return SweepOutputs(
        task=task.name,
        references=[row.scored_against for row in rows],
        metrics=metrics,
        cells=cells,
        teacher=ModelOutputs(texts, facts["parameters"], None),
        baselines=baselines(task, rows, metrics),
        cached_logits=plan.sweep.cached_logits,
        objective=plan.sweep.objective,
        resamples=plan.sweep.resamples,
        training=training_words(plan),
    )


def training_words(plan: DistillationPlan) -> str:
    """Say how long each student is trained."""
    one = plan.student_config(plan.kinds[0], 0, plan.output)
    length = f"{one.max_steps} steps" if one.max_steps else f"{one.epochs:g} epochs"
    rows = f" of the first {one.limit} rows" if one.limit else ""
    return f"{length}{rows}, batches of {one.batch_size * one.gradient_accumulation}"


def write_summary(plan: DistillationPlan) -> None:
    """Write table, JSON and picture, and print the table."""
    summary = summarise(measured(plan, load_task(plan.data)))
    write_result(plan.output, "distillation", summary, as_csv(summary), draw)
    print(as_text(summary))
