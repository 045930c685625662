"""What `wheels bench study` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import REQUIRED, check_fields, option, threads_option
from wheels.config.paths import PLACE, RUN, SETTINGS
from wheels.errors import WheelsError


@dataclass(frozen=True)
class StudyConfig:
    """Settings of `wheels bench study`; what each stage does stands in a recipe."""

    recipe: str = option(
        REQUIRED, "YAML file with the settings of each stage, or the name of a shipped one", reads=SETTINGS
    )
    data: str = option(REQUIRED, "task, folder or hub:owner/name with train, validation and test splits", reads=PLACE)
    output: str = option("study", "folder for models and results; a rerun into it continues", metavar="DIR", writes=RUN)
    teacher: str | None = option(
        None, "a teacher that is there already; the recipe's section is left out", metavar="DIR", reads=PLACE
    )
    start: str | None = option(
        None, "the model that the teacher starts from, instead of the recipe's", metavar="DIR", reads=PLACE
    )
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("recipe", "data", "output"):
            if not getattr(self, name):
                raise WheelsError(f"{name} must not be empty")
        if self.start is not None and self.teacher is not None:
            raise WheelsError(f"start {self.start!r} is for a teacher that is trained; --teacher is there already")
