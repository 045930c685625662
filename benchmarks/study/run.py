"""`wheels bench study`: train and measure everything for one task by one recipe; each stage runs once.

A teacher, several students that learn from it by different objectives or of different sizes, and the score of each;
then a policy on one or several of them with its thresholds; the curve and the passes of one, the frontier of all. A
recipe may end early: a section that is missing is a stage that is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wheels.agents.config import TrainConfig
from wheels.benchmarks.core.commands import command, distil
from wheels.benchmarks.core.recipe import Recipe, with_digests
from wheels.benchmarks.core.score import ScoresConfig
from wheels.benchmarks.core.stages import Plan, Stage
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.frontier.config import FrontierConfig
from wheels.benchmarks.passes.config import PassesConfig
from wheels.benchmarks.study.config import StudyConfig
from wheels.benchmarks.study.table import score_model, write_table
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.distillation.config import PretrainConfig
from wheels.errors import WheelsError, check_choice

SECTIONS = ("teacher", "students", "scores", "policy", "policies", "calibrate", "curve", "passes", "frontier")


@dataclass(frozen=True)
class Policy:
    """One training of a head, or of a student with its head."""

    student: str
    """The name of the student that it begins with."""
    output: Path
    """The folder of the model."""
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class StudyPlan(Plan):
    """Where a study is made, and of what."""

    teacher: str | None = None
    """A teacher that is there already."""
    start: str | None = None
    """What the teacher starts from, instead of the recipe's."""

    @property
    def students(self) -> dict[str, Mapping[str, Any]]:
        """The settings of each student."""
        return dict(self.recipe.sections["students"])

    def model(self, name: str) -> Path:
        """Return the folder of the teacher or of a student."""
        if name == "teacher":
            return Path(self.teacher) if self.teacher is not None else self.output / name
        return self.output / "students" / name

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies that are trained: one for each student that `policy` names, or those of `policies`.

        What stands in `policy` holds for all of them.
        """
        shared = dict(self.recipe.sections["policy"])
        named = shared.pop("student", ())
        if isinstance(named, str):
            return {named: Policy(named, self.output / "model", shared)}
        given = self.recipe.sections["policies"] or {name: {"student": name} for name in named}
        found = {}
        for name, settings in given.items():
            own = {key: value for key, value in settings.items() if key != "student"}
            found[name] = Policy(settings["student"], self.output / "models" / name, shared | own)
        return found

    @property
    def trained(self) -> list[str]:
        """The models that the study trains, in order."""
        return [*([] if self.teacher is not None else ["teacher"]), *self.students]

    def pretrained(self, name: str) -> PretrainConfig:
        """Return the settings of the teacher or of a student.

        A student whose objective reads no teacher gets its tokenizer; `student` may name the teacher, or one that
        stands before it in the recipe, whose weights it then starts from.

        Raises:
            WheelsError: naming the recipe and the student.
        """
        ours: dict[str, Any] = {"output": str(self.model(name)), "data": self.data, "threads": self.threads}
        if name == "teacher":
            start = {} if self.start is None else {"student": self.start}
            return Recipe(self.recipe.path, {name: {**self.recipe.sections[name], **start}}).configure(
                name, PretrainConfig, **ours
            )
        place = f"students: {name}"
        settings, before = dict(self.students[name]), ["teacher", *self.students]
        if settings.get("student") in before[: before.index(name)]:
            settings["student"] = str(self.model(settings["student"]))
        recipe = Recipe(self.recipe.path, {place: settings})
        teacher = str(self.model("teacher"))
        reads = settings.get("objective", "ce") != "ce"
        return recipe.configure(place, PretrainConfig, **ours, **{"teacher" if reads else "tokenizer": teacher})


def run(config: StudyConfig) -> None:
    """Run the study; see `StudyConfig`.

    Raises:
        WheelsError: for a recipe that does not fit, a folder that holds something else, and whatever a stage raises.
    """
    recipe, output = read_recipe(config.recipe, config.teacher), Path(config.output)
    plan = StudyPlan(recipe, config.data, output, config.threads, config.teacher, config.start)
    stages, given = study_stages(plan), {"teacher": config.teacher, "start": config.start}
    digests = {f"{role}_digest": given_digest(name, role) for role, name in given.items() if name is not None}
    plan.run("bench study", config, stages, **digests)


def given_digest(name: str, role: str) -> str:
    """Return the digest of a model that is there already.

    Raises:
        WheelsError: where it is not.
    """
    from wheels.models.loading import model_digest  # on demand: a bad recipe is told without torch
    from wheels.models.places import check_place

    check_place(name, role)
    return model_digest(name)


def read_recipe(name: str, teacher: str | None = None) -> Recipe:
    """Read a file, or the shipped recipe of that name.

    Raises:
        WheelsError: for a recipe that cannot be read, has no teacher, or names a student that it does not make.
    """
    recipe = Recipe.read(name, SECTIONS)
    path = recipe.path
    students = recipe.sections["students"]
    if not recipe.sections["teacher"] and teacher is None:
        raise WheelsError(
            f"{path}: must have the section teacher, with at least one setting; or give one that is there, by --teacher"
        )
    for student, settings in students.items():
        if not isinstance(settings, dict):
            raise WheelsError(f"{path}: students: {student} must hold `key: value` lines, got {settings!r}")
        if student == "teacher" or not str(student).replace("-", "").replace("_", "").isalnum():
            raise WheelsError(f"{path}: students: {student!r} cannot be the name of a student; use letters and digits")
    _check_policies(recipe)
    return recipe


def _check_policies(recipe: Recipe) -> None:
    """Refuse a policy without a student that the recipe makes, and stages that a policy is missing for."""
    path, students = recipe.path, recipe.sections["students"]
    policy, policies = recipe.sections["policy"], recipe.sections["policies"]
    if policies and "student" in policy:
        raise WheelsError(f"{path}: policy: each of the policies has its own student; take it out")
    places = {f"policies: {name}": settings for name, settings in policies.items()} if policies else {"policy": policy}
    for place, settings in places.items():
        if not isinstance(settings, dict) or (settings and "student" not in settings):
            raise WheelsError(
                f"{path}: {place}: must say on which student, such as `student: {next(iter(students), 'kl')}`"
            )
        named = settings.get("student", [])
        several = isinstance(named, list) and not policies
        try:
            for student in named if several else [named]:
                check_choice("student", student, tuple(students))
        except WheelsError as error:
            raise WheelsError(f"{path}: {place}: {error}") from None
    if policies or isinstance(policy.get("student"), list):
        if recipe.sections["curve"] or recipe.sections["passes"]:
            raise WheelsError(f"{path}: curve and passes are of one pair; name one student in policy, or use frontier")
    elif not policy and any(recipe.sections[name] for name in ("calibrate", "curve", "passes")):
        raise WheelsError(f"{path}: calibrate, curve and passes need the section policy")


def study_stages(plan: StudyPlan) -> list[Stage]:
    """Return the stages, their settings checked.

    Raises:
        WheelsError: naming the recipe and the section, for a setting that is not allowed.
    """
    stages = [*model_stages(plan), *score_stages(plan)]
    for name in plan.policies:
        stages += policy_stages(plan, name)
    return [*stages, *frontier_stages(plan)]


def model_stages(plan: StudyPlan) -> list[Stage]:
    """Return the training of the teacher and of each student."""
    stages = []
    for name in plan.trained:
        config = plan.pretrained(name)
        title = "training the teacher" if name == "teacher" else f"training the student {name} ({config.objective})"
        settings = plan.recipe.sections["teacher"] if name == "teacher" else plan.students[name]
        stage = name if name == "teacher" else f"student-{name}"
        settings = with_digests(settings, config)
        stages.append(Stage(stage, title, (plan.model(name),), settings, partial(distil, config)))
    return stages


def score_stages(plan: StudyPlan) -> list[Stage]:
    """Return the scoring of each model alone, and the table of all."""
    config = plan.recipe.configure("scores", ScoresConfig)
    settings = plan.recipe.sections["scores"]
    names, stages = ("teacher", *plan.students), []
    for name in names:
        place = plan.output / "scores" / f"{name}.json"
        work = partial(score_model, config, plan.data, plan.model(name), place)
        stages.append(Stage(f"score-{name}", f"scoring {name} alone", (place,), settings, work))
    models = {name: (plan.pretrained(name).objective, plan.model(name)) for name in plan.trained}
    if plan.teacher is not None:
        models = {"teacher": ("-", plan.model("teacher")), **models}
    work = partial(write_table, config, plan.data, models, plan.output)
    table = (plan.output / "students.json", plan.output / "students.csv")
    stages.append(Stage("students", "comparing the models", table, settings, work, True))
    return stages


def policy_stages(plan: StudyPlan, name: str) -> list[Stage]:
    """Return the training of a policy and what is measured of it, as far as the recipe has it."""
    recipe, output, chosen = plan.recipe, plan.output, plan.policies[name]
    student, done = chosen.student, chosen.output
    ending = f"-{name}" if len(plan.policies) > 1 else ""
    shared = {"data": plan.data, "threads": plan.threads}
    pair = {"student": str(plan.model(student)), "teacher": str(plan.model("teacher"))}
    place = f"policies: {name}" if recipe.sections["policies"] else "policy"
    policy = Recipe(recipe.path, {place: chosen.settings})
    config = policy.configure(place, TrainConfig, output=str(done), calibrate=False, **pair, **shared)
    settings, title = {**chosen.settings, "student": student}, f"teaching {name} when to call"
    stages = [Stage(f"policy{ending}", title, (done, done / "deferral"), settings, partial(command, config))]
    thresholds = done / "deferral" / "calibration.json"
    measured: dict[str, tuple[str, Path, Any]] = {
        "calibrate": ("finding the thresholds of the budgets", thresholds, CalibrateConfig),
        "curve": ("measuring quality against teacher use", output / "curve", CurveConfig),
        "passes": ("measuring quality against teacher passes", output / "passes", PassesConfig),
    }
    for stage, (title, result, kind) in measured.items():
        if recipe.sections[stage]:
            shown = stage != "calibrate"
            folder = str(output / stage) if shown else None
            settings = recipe.configure(stage, kind, model=str(done), **shared, output=folder)
            work = partial(command, settings)
            stages.append(Stage(f"{stage}{ending}", title, (result,), recipe.sections[stage], work, shown))
    return stages


def frontier_stages(plan: StudyPlan) -> list[Stage]:
    """Return the frontier of all students, each with its policy where it has one; none where the recipe has none."""
    recipe, output = plan.recipe, plan.output / "frontier"
    if not recipe.sections["frontier"]:
        return []
    students: tuple[str, ...] = ()
    for name in plan.students:
        trained = [str(policy.output) for policy in plan.policies.values() if policy.student == name]
        students += tuple(trained or [str(plan.model(name))])
    ours: dict[str, Any] = {"students": students, "teacher": str(plan.model("teacher")), "output": str(output)}
    config = recipe.configure("frontier", FrontierConfig, data=plan.data, threads=plan.threads, **ours)
    title, work = "measuring quality against cost", partial(command, config)
    return [Stage("frontier", title, (output,), recipe.sections["frontier"], work, True)]
