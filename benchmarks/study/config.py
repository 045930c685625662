"""What `wheels bench study` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.benchmarks.core.config import RecipeConfig, output_option
from wheels.config.fields import option
from wheels.config.paths import PLACE
from wheels.errors import WheelsError


@dataclass(frozen=True)
class StudyConfig(RecipeConfig):
    """Settings of `wheels bench study`; what each stage does stands in a recipe."""

    output: str = output_option("study")
    teacher: str | None = option(
        None, "a teacher that is there already; the recipe's section is left out", metavar="DIR", reads=PLACE
    )
    start: str | None = option(
        None, "the model that the teacher starts from, instead of the recipe's", metavar="DIR", reads=PLACE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None and self.teacher is not None:
            raise WheelsError(f"start {self.start!r} is for a teacher that is trained; --teacher is there already")
