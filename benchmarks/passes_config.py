"""What `wheels bench passes` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.decoding.choices import DTYPES, RULES
from wheels.errors import WheelsError
from wheels.fields import check_fields, option

FAMILIES = ("deferral", "verified", "verified-all", "take-back", "bild", "speculative", "lossy", "cascade", "lookup")
"""The families of methods that are compared, each at several settings (`wheels.benchmarks.passes.settings_of`)."""


@dataclass(frozen=True)
class PassesConfig:
    """Settings of one comparison of quality against teacher passes.

    Raises:
        WheelsError: for a value that is not allowed.
    """

    model: str | None = option(None, "folder of a trained model (default: the embedded pair)", metavar="DIR")
    teacher: str | None = option(None, "folder or hub id of the teacher, if not the one that the model folder names")
    data: str = option("embedded-translation", "task, folder, file or hub:owner/name to score on")
    split: str = option("test", "split of the data that is scored")
    source: str = option("source", "column of the source; dotted names reach nested columns")
    target: str = option("target", "column of the reference")
    metrics: tuple[str, ...] = option((), "metrics; the first is the quality of the curve (default: the task's own)")
    rule: str = option("learned", "the rule that calls in deferral and in its verified forms", choices=RULES)
    budgets: tuple[float, ...] = option((0.05, 0.1, 0.2, 0.3), "its teacher budgets, calibrated before", share=True)
    families: tuple[str, ...] = option(FAMILIES, "families of methods to compare", choices=FAMILIES)
    seed: int = option(0, "which trained head is used", minimum=0)
    limit: int | None = option(None, "score only the first rows", minimum=1)
    batch_size: int = option(64, "rows of a forward pass", minimum=1)
    max_new_tokens: int = option(128, "longest output, in tokens", minimum=1)
    output: str = option("passes", "folder for the results; a rerun into it continues", metavar="DIR")
    device: str = option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = option("float32", "number format of both models", choices=DTYPES)
    threads: int | None = option(None, "CPU threads (default: torch's own choice)", minimum=1)

    def __post_init__(self) -> None:
        """Check every value; budgets are put in order, and each family stands once."""
        check_fields(self)
        for name in ("budgets", "families"):
            if not getattr(self, name):
                raise WheelsError(f"{name} must hold at least one value, got none")
        object.__setattr__(self, "budgets", tuple(sorted({float(budget) for budget in self.budgets})))
        object.__setattr__(self, "families", tuple(dict.fromkeys(self.families)))
