"""What `wheels bench ceiling` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import DTYPES, check_fields, machine_option, option, option_group, threads_option
from wheels.config.paths import PLACE, RUN
from wheels.data.options import OWN_METRIC, bad_rows_option
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES
from wheels.errors import WheelsError

data_option = option_group("data")
statistics_option = option_group("statistics")


@dataclass(frozen=True)
class CeilingConfig:
    """Settings of one search for the ceiling."""

    model: str | None = option(
        None, "folder of a trained model (default: the embedded pair)", metavar="DIR", reads=PLACE
    )
    teacher: str | None = option(None, "folder or hub id of the teacher (default: the model's own)", reads=PLACE)
    data: str = option("embedded-translation", "task, folder, file or hub:owner/name to score on", reads=PLACE)
    split: str = data_option("test", "split of the data that is scored")
    source: str = data_option("source", "column of the source; dots reach nested ones")
    target: str = data_option("target", "column of the reference")
    bad_rows: str = bad_rows_option(data_option)
    metrics: tuple[str, ...] = option(
        (), "metrics; each has a ceiling of its own (default: the task's own)" + OWN_METRIC
    )
    budgets: tuple[float, ...] = option(
        (0.05, 0.1, 0.2, 0.3, 0.4),
        "teacher budgets between 0 and 1; a rule whose use ends below one has no figure there",
        share=True,
    )
    rules: tuple[str, ...] = option(
        ("margin", "learned", "foresight"), "rules to compare, beside random calls" + OWN_RULE, **RULE_CHOICES
    )
    limit: int = option(200, "search for the first rows of the split only", minimum=1)
    texts: int = option(400, "texts tried for one row at most; where there are no more, none is missed", minimum=1)
    seeds: int = statistics_option(3, "trained heads of a rule, and draws of random calls", minimum=1)
    resamples: int = statistics_option(1000, "bootstrap resamples of rows and seeds", minimum=100, maximum=100_000)
    batch_size: int = machine_option(64, "rows decoded at once", minimum=1)
    max_new_tokens: int = data_option(128, "longest output, in tokens", minimum=1)
    output: str = option("ceiling", "folder for the results; a rerun into it continues", metavar="DIR", writes=RUN)
    device: str = machine_option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = machine_option("float32", "number format of both models", choices=DTYPES)
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        """Check every value; budgets are put in order, and random calls come first."""
        check_fields(self)
        object.__setattr__(self, "budgets", tuple(sorted({float(budget) for budget in self.budgets})))
        object.__setattr__(self, "rules", tuple(dict.fromkeys(("random", *self.rules))))
        if not self.budgets or not all(0 < budget < 1 for budget in self.budgets):
            given = ", ".join(f"{budget:g}" for budget in self.budgets) or "none"
            raise WheelsError(f"budgets must lie between 0 and 1, got {given}; both ends are decoded anyway")
