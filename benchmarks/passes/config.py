"""What `wheels bench passes` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.benchmarks.core.config import PairConfig, statistics_option
from wheels.config.fields import (
    backend_option,
    check_fields,
    option,
    option_group,
)
from wheels.config.paths import PLACE, RUN
from wheels.data.options import OWN_METRIC
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES

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

method_option = option_group("methods")
tuning_option = option_group("tuning of the family `tuned`")


@dataclass(frozen=True)
class PassesConfig(PairConfig):
    """Settings of one comparison of quality against teacher passes."""

    metrics: tuple[str, ...] = option(
        (), "metrics; the first is the quality of the curve (default: the task's own)" + OWN_METRIC
    )
    rule: str = option("learned", "the rule that calls in deferral and its verified forms" + OWN_RULE, **RULE_CHOICES)
    budgets: tuple[float, ...] = option(
        (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        "its teacher budgets, calibrated before; between points more than 0.1 apart in passes no figure is given",
        share=True,
        rising=True,
    )
    families: tuple[str, ...] = option(FAMILIES, "families of methods to compare", choices=FAMILIES, once=True)
    scales: tuple[float, ...] = method_option(
        (1.0,), "priced: nats of regret let pass for each nat of the call's price", minimum=0, rising=True
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
    output: str = option("passes", "folder for the results; a rerun into it continues", metavar="DIR", writes=RUN)
    backend: str = backend_option()

    def __post_init__(self) -> None:
        """Check every value; budgets are put in order, each value stands once."""
        check_fields(self)
