"""`wheels bench rationales`: students that learn a second task, a teacher's rationales, beside students that do not.

One teacher, its attributions by every method, then a student for each kind of rationale, length and seed; all students
see the same rows in the same order as often as the others. Controls: no rationale (standard fine-tuning), random words,
the words that an untrained teacher points to, and the rationales that the rows came with (distilling step-by-step).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.commands import command, distil
from wheels.benchmarks.core.recipe import Recipe, with_digests
from wheels.benchmarks.core.results import result_files
from wheels.benchmarks.core.stages import Plan, Stage
from wheels.benchmarks.rationales.cells import score_cell, untrained, write_rows
from wheels.benchmarks.rationales.config import BenchRationalesConfig, GridConfig
from wheels.benchmarks.rationales.summary import summarise
from wheels.distillation.config import PretrainConfig
from wheels.errors import WheelsError
from wheels.rationales.config import RationalesConfig

SECTIONS = ("teacher", "student", "grid")
COLUMN = "attributed"
"""Of the rationales that are made here."""


@dataclass(frozen=True)
class Variant:
    """One kind of student."""

    name: str
    k: int
    """Words of its rationales; 0 where that has no meaning."""

    @property
    def label(self) -> str:
        """The name in files and tables."""
        return f"{self.name}-{self.k}" if self.k else self.name

    def attribution(self, seed: int) -> str | None:
        """Return the name of the attribution it takes its words from, if any; random words differ by seed."""
        return None if not self.k else f"random-{seed}" if self.name == "random" else self.name


@dataclass(frozen=True)
class RationalesPlan(Plan):
    """Where a run is made, and of what."""

    grid: GridConfig

    @property
    def variants(self) -> list[Variant]:
        """Controls first, then every method."""
        grid = self.grid
        controls = [Variant(name, 0 if name in ("none", "given") else grid.k) for name in grid.controls]
        first = [Variant(grid.methods[0], k) for k in grid.ks]
        return [*controls, *first, *(Variant(method, grid.k) for method in grid.methods[1:])]

    def attributed(self, name: str) -> Path:
        """Return the file of an attribution."""
        return self.output / "attributed" / f"{name}.jsonl"

    def cell(self, variant: Variant, seed: int) -> Path:
        """Return the folder of a student."""
        return self.output / "students" / f"{variant.label}-{seed}"

    def student(self, variant: Variant, seed: int) -> PretrainConfig:
        """Return the settings of a student."""
        data, column = self.data, self.grid.given if variant.name == "given" else None
        if variant.k:
            data, column = str(self.rows(variant, seed)), COLUMN
        return self.recipe.configure(
            "student",
            PretrainConfig,
            output=str(self.cell(variant, seed)),
            data=data,
            rationale=column,
            seed=seed,
            tokenizer=str(self.output / "teacher"),
            metric=self.grid.metric,
            threads=self.threads,
        )

    def rows(self, variant: Variant, seed: int) -> Path:
        """Return the folder of rows that a student with rationales of ours learns from."""
        return self.output / "rows" / f"{variant.label}{f'-{seed}' if variant.name == 'random' else ''}"


def run(config: BenchRationalesConfig) -> None:
    """Run what the recipe asks for; see `BenchRationalesConfig`.

    Raises:
        WheelsError: for a recipe that does not fit, a folder that holds something else, and whatever a stage raises.
    """
    recipe = Recipe.read(config.recipe, SECTIONS)
    for section in ("teacher", "student"):
        if not recipe.sections[section]:
            raise WheelsError(f"{recipe.path}: must have the section {section}, with at least one setting")
    grid = recipe.configure("grid", GridConfig)
    if grid.captum and find_spec("captum") is None:
        raise WheelsError("captum: true needs Captum; `pip install captum`, or take it out of the recipe")
    plan = RationalesPlan(recipe, config.data, Path(config.output), config.threads, grid)
    plan.run("bench rationales", config, rationale_stages(plan))


def rationale_stages(plan: RationalesPlan) -> list[Stage]:
    """Return the stages, their settings checked."""
    return [*teacher_stages(plan), *attribution_stages(plan), *student_stages(plan), summary_stage(plan)]


def teacher_stages(plan: RationalesPlan) -> list[Stage]:
    """Return the training of the teacher, its score, and its untrained copy."""
    settings, folder = plan.recipe.sections["teacher"], plan.output / "teacher"
    config = plan.recipe.configure(
        "teacher", PretrainConfig, output=str(folder), data=plan.data, metric=plan.grid.metric, threads=plan.threads
    )
    settings = with_digests(settings, config)
    place = plan.output / "scores" / "teacher.json"
    score, after = partial(score_cell, plan.grid, plan.data, folder, place), ("teacher",)
    stages = [
        Stage("teacher", "training the teacher", (folder,), settings, partial(distil, config), after=()),
        Stage("score-teacher", "scoring the teacher", (place,), _scored(plan), score, after=after),
    ]
    if "untrained-teacher" in plan.grid.controls:
        copy = plan.output / "untrained"
        make = partial(untrained, folder, copy)
        stages.append(Stage("untrained", "making an untrained teacher", (copy,), {}, make, after=after))
    return stages


def attribution_stages(plan: RationalesPlan) -> list[Stage]:
    """Return the attribution of the training rows by every method and control that needs one."""
    names: dict[str, tuple[str, str, int]] = {method: (method, "teacher", 0) for method in plan.grid.methods}
    if "untrained-teacher" in plan.grid.controls:
        names["untrained-teacher"] = (plan.grid.methods[0], "untrained", 0)
    if "random" in plan.grid.controls:
        names |= {f"random-{seed}": ("random", "teacher", seed) for seed in range(plan.grid.seeds)}
    stages = []
    for name, (method, teacher, seed) in names.items():
        config = RationalesConfig(
            teacher=str(plan.output / teacher),
            data=plan.data,
            output=str(plan.attributed(name)),
            column=COLUMN,
            method=method,
            seed=seed,
            top_k=plan.grid.k,
            merge=plan.grid.merge,
            steps=plan.grid.steps,
            batch_size=plan.grid.batch_size,
            threads=plan.threads or 0,
        )
        settings = {"method": method, "merge": plan.grid.merge, "steps": plan.grid.steps, "seed": seed}
        work = partial(command, config)
        title = f"attributing by {name}"
        stages.append(Stage(f"attribute-{name}", title, (plan.attributed(name),), settings, work, after=(teacher,)))
    return stages


def student_stages(plan: RationalesPlan) -> list[Stage]:
    """Return the training and the scoring of every student."""
    stages = []
    for variant in plan.variants:
        for seed in range(plan.grid.seeds):
            place = plan.output / "scores" / f"{variant.label}-{seed}.json"
            student = with_digests(plan.recipe.sections["student"], plan.student(variant, seed))
            settings = {"student": student, "given": plan.grid.given} | _scored(plan)
            title = f"student {variant.label}, seed {seed}"
            work = partial(train_and_score, plan, variant, seed, place)
            name = variant.attribution(seed)
            after = () if name is None else (f"attribute-{name}",)
            stages.append(
                Stage(f"{variant.label}-{seed}", title, (plan.cell(variant, seed), place), settings, work, after=after)
            )
    return stages


def train_and_score(plan: RationalesPlan, variant: Variant, seed: int, place: Path) -> None:
    """Train one student and write its score."""
    name = variant.attribution(seed)
    if name is not None:
        write_rows(plan.data, plan.attributed(name), plan.rows(variant, seed), column=COLUMN, k=variant.k)
    distil(plan.student(variant, seed))
    score_cell(plan.grid, plan.data, plan.cell(variant, seed), place)


def summary_stage(plan: RationalesPlan) -> Stage:
    """Return the comparison of all students."""
    scores = {
        (variant.name, variant.k, seed): plan.output / "scores" / f"{variant.label}-{seed}.json"
        for variant in plan.variants
        for seed in range(plan.grid.seeds)
    }
    names = [*plan.grid.methods, *(name for name in ("untrained-teacher", "random") if name in plan.grid.controls)]
    files = {name: plan.attributed("random-0" if name == "random" else name) for name in names}
    work = partial(summarise, plan.grid, plan.data, scores, files, plan.output)
    settings: Mapping[str, Any] = {"resamples": plan.grid.resamples, "captum": plan.grid.captum}
    settings = {**settings, "overlap": plan.grid.overlap, "published": plan.grid.published}
    results = result_files(plan.output, "rationales")
    return Stage("summary", "comparing the students", results, settings, work, shown=True, again=True)


def _scored(plan: RationalesPlan) -> dict[str, Any]:
    """Return what a score depends on, beside the model."""
    return {"metric": plan.grid.metric, "limit": plan.grid.limit}
