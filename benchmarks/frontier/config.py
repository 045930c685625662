"""What `wheels bench frontier` and `wheels advise` can be asked for. Imports nothing heavy: `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import (
    DTYPES,
    REQUIRED,
    check_fields,
    fields_of,
    machine_option,
    option,
    option_group,
    quantization_option,
    teacher_device_option,
    threads_option,
)
from wheels.config.paths import PLACE, RUN, SETTINGS
from wheels.data.options import OWN_METRIC, bad_rows_option
from wheels.data.prompts import check_given
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES
from wheels.errors import WheelsError

METHODS = ("deferral", "verified")
"""How a student and its teacher write together."""

WITH_RECIPE = ("recipe", "data", "teacher", "output", "threads")
"""What a run by a recipe is told beside it."""

data_option = option_group("data")
method_option = option_group("methods")
choice_option = option_group("choice")
time_option = option_group("seconds")


@dataclass(frozen=True)
class WaysConfig:
    """Which models write, in which ways, and the rows on which a way is chosen."""

    data: str = option(REQUIRED, "task, folder, file or hub:owner/name", reads=PLACE)
    students: tuple[str, ...] = option(
        (), "folders of the students, of several sizes: plain models, or what `wheels train` wrote", reads=PLACE
    )
    teacher: str | None = option(None, "folder or hub id of the teacher of all of them", metavar="DIR", reads=PLACE)
    rules: tuple[str, ...] = option(
        ("learned", "margin"),
        "rules that call, each with the students that have it: a head that it reads is trained by `wheels train`"
        + OWN_RULE,
        once=True,
        **RULE_CHOICES,
    )
    budgets: tuple[float, ...] = option(
        (0.05, 0.1, 0.2, 0.3, 0.5), "teacher budgets of each rule", share=True, rising=True
    )
    methods: tuple[str, ...] = method_option(
        METHODS, "what a call does beside writing a token", choices=METHODS, once=True
    )
    tolerance: float = method_option(2.0, "nats of regret beyond which `verified` takes a token back", minimum=0)
    seeds: int = method_option(3, "trained heads of a rule that are decoded", minimum=1)
    choose_split: str = choice_option("validation", "split on which a way is chosen; never one that is scored")
    choose_limit: int | None = choice_option(
        600, "choose on its first rows only; where thresholds lack, every fourth is for them", minimum=2
    )
    confidence: float = choice_option(
        0.9, "share of the bootstrap's resamples in which a way must keep the quality asked for", share=True
    )
    source: str = data_option("source", "column of the source; dots reach nested ones")
    target: str = data_option("target", "column of the reference")
    bad_rows: str = bad_rows_option(data_option)
    prompt: str | None = data_option(
        None, "text that the models read, with {source} in it, or chat (default: the models' own)", check=check_given
    )
    metrics: tuple[str, ...] = option((), "metrics; the first is the quality (default: the task's own)" + OWN_METRIC)
    max_new_tokens: int = data_option(128, "longest output, in tokens", minimum=1)
    resamples: int = option(2000, "bootstrap resamples of rows and seeds", minimum=100, maximum=100_000)
    time_batches: tuple[int, ...] = time_option(
        (1, 32), "rows of a forward pass that is timed; none: no time", minimum=1, rising=True, empty=True
    )
    time_rows: int = time_option(64, "texts that are timed", minimum=1)
    rounds: int = time_option(5, "times that each way is timed, all of them in turn", minimum=1)
    batch_size: int = machine_option(64, "rows decoded at once", minimum=1)
    device: str = machine_option("cpu", "device of all models, such as cpu or cuda")
    dtype: str = machine_option("float32", "number format of all models", choices=DTYPES)
    teacher_device: str | None = teacher_device_option()
    teacher_quantization: str | None = quantization_option()
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        """Check every value; budgets and batch sizes are put in order, each value stands once."""
        check_fields(self)
        self.check_models()
        if not all(0.0 < budget < 1.0 for budget in self.budgets):
            raise WheelsError("budgets must lie between 0 and 1: the models alone are measured in any case")

    def check_models(self) -> None:
        """Refuse a comparison without students or without their teacher."""
        for name, value in (("students", self.students), ("teacher", self.teacher)):
            if not value:
                raise WheelsError(f"--{name} is missing: give --students A,B,C and --teacher T")


@dataclass(frozen=True)
class FrontierConfig(WaysConfig):
    """Settings of one comparison of quality against cost, over students of several sizes."""

    recipe: str | None = option(
        None,
        "YAML file that makes the students first and holds all other settings, or the name of a shipped one",
        reads=SETTINGS,
    )
    split: str = data_option("test", "split of the data that is scored")
    limit: int | None = option(None, "score only the first rows", minimum=1)
    levels: tuple[float, ...] = choice_option(
        (0.8, 0.9, 0.95, 0.99), "shares of the teacher's score for which the cheapest way is chosen", share=True
    )
    claims: tuple[float, ...] = choice_option(
        (0.1, 0.2),
        "budgets at which deferral by each student's first rule is tested, with Holm's correction",
        share=True,
    )
    output: str = option("frontier", "folder for the results; a rerun into it continues", metavar="DIR", writes=RUN)

    def check_models(self) -> None:
        """A recipe makes the students; the rest of what it needs is checked when it is read."""
        if self.recipe is None:
            super().check_models()
            return
        for field in fields_of(type(self)):
            if field.name not in WITH_RECIPE and getattr(self, field.name) != field.default:
                raise WheelsError(f"{field.flag} and --recipe do not go together: a recipe holds it, or makes it")


@dataclass(frozen=True)
class AdviseConfig(WaysConfig):
    """Settings of `wheels advise`: which student, and how many calls, for a loss that is allowed."""

    loss: float = option(0.5, "points of the metric below the teacher that may be lost", minimum=0)
    rounds: int = time_option(3, "times that each way is timed, all of them in turn", minimum=1)
    time_rows: int = time_option(32, "texts that are timed", minimum=1)
    output: str = option("advise", "folder for what was measured; a rerun into it continues", metavar="DIR", writes=RUN)
