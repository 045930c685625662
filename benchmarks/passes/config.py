"""What `wheels bench passes` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import (
    DTYPES,
    backend_option,
    check_fields,
    machine_option,
    option,
    option_group,
    threads_option,
)
from wheels.config.paths import PLACE, RUN
from wheels.data.options import OWN_METRIC, bad_rows_option
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES
from wheels.errors import WheelsError

FAMILIES = (
    "deferral",
    "verified",
    "verified-all",
    "priced",
    "take-back",
    "bild",
    "speculative",
    "lossy",
    "cascade",
    "lookup",
)
"""The families of methods that are compared, each at several settings (`wheels.benchmarks.passes.settings`)."""

data_option = option_group("data")
method_option = option_group("methods")
tuning_option = option_group("tuning of the family `tuned`")
statistics_option = option_group("statistics")


@dataclass(frozen=True)
class PassesConfig:
    """Settings of one comparison of quality against teacher passes."""

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
        (), "metrics; the first is the quality of the curve (default: the task's own)" + OWN_METRIC
    )
    rule: str = option("learned", "the rule that calls in deferral and its verified forms" + OWN_RULE, **RULE_CHOICES)
    budgets: tuple[float, ...] = option(
        (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        "its teacher budgets, calibrated before; between points more than 0.1 apart in passes no figure is given",
        share=True,
    )
    families: tuple[str, ...] = option(FAMILIES, "families of methods to compare", choices=FAMILIES)
    scales: tuple[float, ...] = method_option(
        (1.0,), "priced: nats of regret let pass for each nat of the call's price"
    )
    longest: int | None = method_option(
        None, "student tokens after which a verified or priced row calls anyway (default: no limit)", minimum=1
    )
    seeds: int = statistics_option(3, "trained heads that learned and regret are decoded with", minimum=1)
    tune_data: str | None = tuning_option(
        None, "data on which the family tuned chooses its settings; never the rows that are scored", reads=PLACE
    )
    tune_split: str = tuning_option("validation", "split of the data that is tuned on")
    tune_limit: int | None = tuning_option(None, "tune on the first rows only", minimum=1)
    limit: int | None = option(None, "score only the first rows", minimum=1)
    batch_size: int = machine_option(64, "rows of a forward pass", minimum=1)
    max_new_tokens: int = data_option(128, "longest output, in tokens", minimum=1)
    resamples: int = statistics_option(1000, "bootstrap resamples of rows and seeds", minimum=100, maximum=100_000)
    output: str = option("passes", "folder for the results; a rerun into it continues", metavar="DIR", writes=RUN)
    device: str = machine_option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = machine_option("float32", "number format of both models", choices=DTYPES)
    threads: int | None = threads_option()
    backend: str = backend_option()

    def __post_init__(self) -> None:
        """Check every value; budgets are put in order, each value stands once."""
        check_fields(self)
        for name in ("budgets", "families", "scales"):
            if not getattr(self, name):
                raise WheelsError(f"{name} must hold at least one value, got none")
        object.__setattr__(self, "budgets", tuple(sorted({float(budget) for budget in self.budgets})))
        if any(not scale >= 0 for scale in self.scales):
            raise WheelsError(f"scales must be at least 0, got {', '.join(f'{scale:g}' for scale in self.scales)}")
        object.__setattr__(self, "scales", tuple(sorted({float(scale) for scale in self.scales})))
        object.__setattr__(self, "families", tuple(dict.fromkeys(self.families)))
