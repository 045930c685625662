"""The grid of `wheels bench distillation`: its students, and how each is trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.recipe import Recipe
from wheels.benchmarks.core.score import ScoresConfig
from wheels.benchmarks.core.stages import Plan
from wheels.benchmarks.distillation.config import CacheConfig, DistillationConfig, SweepConfig
from wheels.distillation.config import PretrainConfig
from wheels.errors import WheelsError, check_choice

SECTIONS = ("teacher", "student", "sizes", "sweep", "scores", "cache")
NOT_A_SIZE = "teacher"
NARROWED = "temperatures"
"""What a size may have fewer of than the sweep, beside settings of its students."""


@dataclass(frozen=True, order=True)
class Kind:
    """A way to learn, without the seed."""

    size: str
    label: str
    """`hard`, `soft` or `both`."""
    w: float
    """The share of the teacher's divergence: 0 of hard, 1 of soft."""
    temperature: float | None
    """T; hard labels have none."""

    @property
    def name(self) -> str:
        """What it is called in tables and in the names of folders."""
        weight = f"-{self.w:g}" if self.label == "both" else ""
        return f"{self.size}-{self.label}{weight}" + ("" if self.temperature is None else f"-T{self.temperature:g}")

    @property
    def line(self) -> str:
        """The name of the line that it is a point of, over temperatures: `hard`, `soft`, `both, w 0.5`."""
        return f"both, w {self.w:g}" if self.label == "both" else self.label


def kinds_of(
    sizes: Iterable[str], sweep: SweepConfig, narrowed: Mapping[str, Collection[float]] | None = None
) -> list[Kind]:
    """Return the grid: size by size, hard labels first; a size in `narrowed` has only the temperatures there."""
    found = []
    for size in sizes:
        own = (narrowed or {}).get(size, sweep.temperatures)
        for label in sweep.labels:
            if label == "hard":
                found.append(Kind(size, label, 0.0, None))
                continue
            weights = sweep.weights if label == "both" else (1.0,)
            found += [Kind(size, label, w, one) for w in weights for one in sweep.temperatures if one in own]
    return found


@dataclass(frozen=True)
class DistillationPlan(Plan):
    """What is compared, of what, and where."""

    given_teacher: str | None
    """A teacher that is brought along."""

    @classmethod
    def of(cls, config: DistillationConfig) -> DistillationPlan:
        """Read the recipe and check every setting in it.

        Raises:
            WheelsError: naming the recipe and the section, for what is missing or not allowed.
        """
        plan = cls(read_recipe(config.recipe), config.data, Path(config.output), config.threads, config.teacher)
        if config.teacher is None:
            if not plan.recipe.sections["teacher"]:
                raise WheelsError(f"{plan.recipe.path}: has no section teacher; add one, or give --teacher DIR")
            plan.teacher_config()
        if plan.cache.size is not None:
            try:
                check_choice("size", plan.cache.size, plan.sizes)
            except WheelsError as error:
                raise WheelsError(f"{plan.recipe.path}: cache: {error}") from None
        for size in plan.sizes:
            plan.check_temperatures(size)
        for kind in plan.kinds:
            plan.student_config(kind, 0, plan.output)
        _ = plan.scores
        return plan

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of the sizes, in the recipe's order."""
        return tuple(self.recipe.sections["sizes"])

    @property
    def sweep(self) -> SweepConfig:
        """The grid."""
        return self.recipe.configure("sweep", SweepConfig)

    @property
    def cache(self) -> CacheConfig:
        """What is measured of the cache."""
        return self.recipe.configure("cache", CacheConfig)

    @property
    def scores(self) -> ScoresConfig:
        """How students are scored."""
        return self.recipe.configure("scores", ScoresConfig)

    @property
    def kinds(self) -> list[Kind]:
        """The grid."""
        sizes = self.recipe.sections["sizes"]
        narrowed = {size: settings[NARROWED] for size, settings in sizes.items() if NARROWED in settings}
        return kinds_of(self.sizes, self.sweep, narrowed)

    def check_temperatures(self, size: str) -> None:
        """Refuse temperatures of a size that the sweep has not.

        Raises:
            WheelsError: naming them.
        """
        known, own = self.sweep.temperatures, self.recipe.sections["sizes"][size].get(NARROWED, ())
        if not isinstance(own, list | tuple) or not set(own) <= set(known):
            wanted = ", ".join(f"{one:g}" for one in known)
            raise WheelsError(f"{self.recipe.path}: sizes: {size}: temperatures must be some of {wanted}, got {own!r}")

    def size_settings(self, size: str) -> dict[str, Any]:
        """Return what the students of a size have of their own."""
        return {name: value for name, value in self.recipe.sections["sizes"][size].items() if name != NARROWED}

    @property
    def teacher(self) -> Path:
        """The teacher's folder."""
        return Path(self.given_teacher) if self.given_teacher is not None else self.output / "teacher"

    def teacher_config(self) -> PretrainConfig:
        """Return the teacher's training."""
        return self.recipe.configure(
            "teacher", PretrainConfig, output=str(self.teacher), data=self.data, threads=self.threads
        )

    def student_config(self, kind: Kind, seed: int, output: Path, **ours: Any) -> PretrainConfig:
        """Return a student's training, into `output`.

        `ours` is what differs from the sweep, such as `cached_logits`.
        """
        place = f"sizes: {kind.size}"
        settings = {**self.recipe.sections["student"], **self.size_settings(kind.size)}
        recipe = Recipe(self.recipe.path, {place: settings})
        given: dict[str, Any] = {"output": str(output), "data": self.data, "threads": self.threads, "seed": seed}
        if kind.label == "hard":
            given |= {"objective": "ce", "tokenizer": str(self.teacher)}
        else:
            given |= {"objective": self.sweep.objective, "teacher": str(self.teacher), "w": kind.w}
            given |= {"temperature": kind.temperature, "cached_logits": self.sweep.cached_logits}
            if self.sweep.cached_logits:
                given |= {"cache": str(self.output / "caches"), "cache_temperatures": list(self.sweep.temperatures)}
        return recipe.configure(place, PretrainConfig, **given | ours)


def read_recipe(name: str) -> Recipe:
    """Read a file, or the shipped recipe of that name.

    Raises:
        WheelsError: for a recipe that cannot be read, or has no sizes.
    """
    recipe = Recipe.read(name, SECTIONS)
    path = recipe.path
    sizes: Mapping[str, Any] = recipe.sections["sizes"]
    if not sizes:
        raise WheelsError(f"{path}: must have the section sizes, with at least one, such as `w48: {{width: 48}}`")
    for size, settings in sizes.items():
        if not isinstance(settings, dict):
            raise WheelsError(f"{path}: sizes: {size} must hold `key: value` lines, got {settings!r}")
        if size == NOT_A_SIZE or not str(size).isalnum():
            raise WheelsError(f"{path}: sizes: {size!r} cannot be the name of a size; use letters and digits")
    return recipe
