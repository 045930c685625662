"""What `wheels demo` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import check_fields, option, threads_option
from wheels.config.paths import PLACE, RUN, SETTINGS
from wheels.errors import WheelsError

OUTPUT = "wheels-demo"
"""Where the demo writes unless it is told otherwise."""


@dataclass(frozen=True)
class DemoConfig:
    """Settings of `wheels demo`; what each stage does stands in a recipe.

    Raises:
        WheelsError: for a value that is not allowed, or two that do not go together.
    """

    output: str | None = option(
        None,
        f"folder for the results (default: {OUTPUT}; with --retrain the embedded pair of this checkout); a rerun into "
        "it continues",
        metavar="DIR",
        writes=RUN,
    )
    recipe: str | None = option(
        None, "YAML file with the settings of each stage (default: the shipped one)", reads=SETTINGS
    )
    retrain: bool = option(False, "train the embedded pair itself anew, from scratch")
    data: str | None = option(
        None,
        "with --retrain: what both models learn from, and the embedded corpus is drawn from (default: that corpus)",
        reads=PLACE,
    )
    work: str = option("wheels-retrain", "folder for the unfinished models of --retrain", metavar="DIR", writes=RUN)
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.output == "":
            raise WheelsError("output must be a folder, got ''")
        if self.data is not None and not self.retrain:
            raise WheelsError(f"data {self.data!r} is for --retrain; the demo's own data stands in its recipe")
        if not self.work:
            raise WheelsError("work must be a folder, got ''")


@dataclass(frozen=True)
class SentencesConfig:
    """The slice of a task that the demo works on."""

    task: str = option("embedded-translation", "what `wheels.data.tasks.load_task` can load")
    train: int = option(6000, "rows to learn from", minimum=1)
    validation: int = option(200, "rows to choose checkpoints and thresholds on", minimum=1)
    test: int = option(300, "rows to report on", minimum=1)


@dataclass(frozen=True)
class ExamplesConfig:
    """The outputs that the demo shows, token by token."""

    rows: int = option(12, "how many", minimum=1)
    teacher_budget: float = option(0.2, "share of the tokens that the teacher may write", share=True)
    rule: str = option("learned", "what decides to call the teacher")
