"""What `wheels bench annotation` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.annotation.config import METRICS
from wheels.config.fields import MOST_THREADS, REQUIRED, check_fields, machine_option, option, option_group
from wheels.config.paths import PLACE, RUN
from wheels.errors import WheelsError, check_budget

REFERENCES = "references"
"""The teacher that labels with the references of the pool; `references:0.3` with 30% of them exchanged."""
STRATEGIES = ("random", "random+filter", "consistency", "assistant", "full")
"""At random, unfiltered and filtered; (I); (I) + TA-student; (I) + TA-student + TA-teacher."""

selection_option = option_group("selection")
training_option = option_group("training")
data_option = option_group("data and statistics")


@dataclass(frozen=True)
class AnnotationConfig:
    """Settings of `wheels bench annotation`."""

    data: str = option(REQUIRED, "folder of labelled rows: train, validation (calibration), test (scores)", reads=PLACE)
    pool: str = option(
        REQUIRED, "file of the rows to be annotated; its targets are what labels are held against", reads=PLACE
    )
    student: str = option(REQUIRED, "model that every student starts from", metavar="DIR", reads=PLACE)
    assistants: tuple[str, ...] = option(
        REQUIRED, "assistants' folders; the first is the main one", metavar="DIR,...", reads=PLACE
    )
    output: str = option(
        REQUIRED, "folder for cells, table and plot; a rerun into it continues", metavar="DIR", writes=RUN
    )
    teachers: tuple[str, ...] = option(
        (f"{REFERENCES}:0.3",),
        "teachers: folders, or references[:share of errors]; the first is the main one",
        reads=PLACE,
    )

    strategies: tuple[str, ...] = option(STRATEGIES, "what is compared at every budget", choices=STRATEGIES)
    budgets: tuple[int, ...] = option((100, 300, 900), "annotations; ablations are made at the middle one", minimum=2)
    warm_up: float = selection_option(0.1, "share of the budget spent at random first", share=True)
    warm_ups: tuple[float, ...] = selection_option(
        (0.0, 0.05, 0.2, 0.3), "other shares, of 'full' at the middle budget; 0: one stage"
    )
    seeds: int = option(3, "runs of each, with other rows, errors, samples and order of training", minimum=1)
    metric: str = option("exact", "by which answers agree, and are right", choices=METRICS)
    metrics: tuple[str, ...] = data_option((), "of the table, the first for the plot (default: --metric)")
    samples: int = selection_option(5, "answers that the student samples for each row", minimum=2)
    temperature: float = selection_option(1.0, "of these samples", minimum=0.01)
    grade_quantiles: tuple[float, ...] = selection_option((0.5, 0.1, 0.5), "see `wheels annotate`")

    rehearse: bool = training_option(False, "train on the labelled rows too, not only on annotations")
    epochs: float = training_option(4.0, "passes over the annotations in each training", minimum=0.1)
    learning_rate: float = training_option(1e-3, "highest learning rate", minimum=0.0)
    train_batch: int = training_option(32, "rows per step of training", minimum=1)
    max_new_tokens: int = data_option(64, "longest answer, in tokens", minimum=1)
    batch_size: int = machine_option(256, "rows at a time when models write or read", minimum=1)
    pool_limit: int | None = data_option(None, "use only so many rows of the pool", minimum=2)
    test_limit: int | None = data_option(None, "score only so many test rows", minimum=1)
    resamples: int = data_option(1000, "of the paired bootstrap", minimum=10, maximum=100_000)
    threads: int = machine_option(0, "CPU threads; 0: torch's choice", minimum=0, maximum=MOST_THREADS)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("assistants", "teachers", "strategies", "budgets"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise WheelsError(f"{name} must hold at least one value, each once, got {','.join(map(str, values))}")
        for name in ("assistants", "teachers"):
            values = getattr(self, name)
            if len({last_part(value) for value in values}) < len(values):
                raise WheelsError(f"{name} must differ in their last parts, which name them, got {','.join(values)}")
        for teacher in self.teachers:
            error_share(teacher)
        for share in self.warm_ups:
            check_budget(share, "warm_ups")

    @property
    def middle(self) -> int:
        """The budget that ablations are made at."""
        return sorted(self.budgets)[(len(self.budgets) - 1) // 2]

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics of the table."""
        return self.metrics or (self.metric,)


def last_part(name: str) -> str:
    """Return the last part of a path: what a model is called in tables and signatures."""
    return name.rstrip("/").rsplit("/", 1)[-1]


def error_share(teacher: str) -> float | None:
    """Return the share of labels that a teacher made of references exchanges; None for a model's folder.

    Raises:
        WheelsError: for a share that is none.
    """
    name, _, share = teacher.partition(":")
    if name != REFERENCES:
        return None
    return check_budget(share or 0.0, "the share of errors of a teacher")
