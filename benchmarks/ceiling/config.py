"""What `wheels bench ceiling` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.benchmarks.core.config import PairConfig, statistics_option
from wheels.config.fields import check_fields, option
from wheels.config.paths import RUN
from wheels.data.options import OWN_METRIC
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES
from wheels.errors import WheelsError


@dataclass(frozen=True)
class CeilingConfig(PairConfig):
    """Settings of one search for the ceiling."""

    metrics: tuple[str, ...] = option(
        (), "metrics; each has a ceiling of its own (default: the task's own)" + OWN_METRIC
    )
    budgets: tuple[float, ...] = option(
        (0.05, 0.1, 0.2, 0.3, 0.4),
        "teacher budgets between 0 and 1; a rule whose use ends below one has no figure there",
        share=True,
        rising=True,
    )
    rules: tuple[str, ...] = option(
        ("margin", "learned", "foresight"), "rules to compare, beside random calls" + OWN_RULE, **RULE_CHOICES
    )
    limit: int = option(200, "search for the first rows of the split only", minimum=1)
    texts: int = option(400, "texts tried for one row at most; where there are no more, none is missed", minimum=1)
    seeds: int = statistics_option(3, "trained heads of a rule, and draws of random calls", minimum=1)
    output: str = option("ceiling", "folder for the results; a rerun into it continues", metavar="DIR", writes=RUN)

    def __post_init__(self) -> None:
        """Check every value; budgets are put in order, and random calls come first."""
        check_fields(self)
        object.__setattr__(self, "rules", tuple(dict.fromkeys(("random", *self.rules))))
        if not all(0 < budget < 1 for budget in self.budgets):
            given = ", ".join(f"{budget:g}" for budget in self.budgets)
            raise WheelsError(f"budgets must lie between 0 and 1, got {given}; both ends are decoded anyway")
