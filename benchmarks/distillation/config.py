"""What `wheels bench distillation` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.benchmarks.core.config import RecipeConfig, output_option
from wheels.config.fields import check_fields, option
from wheels.config.paths import PLACE
from wheels.errors import WheelsError

PARTS = ("sweep", "cache")
LABELS = ("hard", "soft", "both")
"""Whose labels a student learns from: the references (cross-entropy), the teacher's law, or a mixture."""
OBJECTIVES = ("kl", "rkl", "jsd")


@dataclass(frozen=True)
class DistillationConfig(RecipeConfig):
    """Settings of `wheels bench distillation`; models, grid and measurements stand in a recipe."""

    output: str = output_option("distillation")
    teacher: str | None = option(
        None, "the teacher (default: trained first, by the recipe)", metavar="DIR", reads=PLACE
    )
    parts: tuple[str, ...] = option(
        ("sweep",),
        "sweep: labels, temperatures and sizes; cache: what cached probabilities save and cost",
        choices=PARTS,
        once=True,
    )


@dataclass(frozen=True)
class SweepConfig:
    """The grid of students: every label with every weight and temperature that it has, in every size and seed."""

    labels: tuple[str, ...] = option(
        LABELS, "hard: references; soft: the teacher; both: a mixture", choices=LABELS, once=True
    )
    weights: tuple[float, ...] = option(
        (0.5,), "w of both: the share of the teacher's divergence", share=True, once=True
    )
    temperatures: tuple[float, ...] = option((1.0, 2.0, 5.0, 10.0), "T of soft and both", minimum=0.01, once=True)
    objective: str = option("kl", "divergence of soft and both", choices=OBJECTIVES)
    seeds: int = option(3, "students of each kind; seed 0, 1, ...", minimum=1)
    cached_logits: int = option(
        0,
        "tokens of the shared cache of the teacher, for T above 1 the whole vocabulary's; 0: a live teacher",
        minimum=0,
    )
    resamples: int = option(1000, "bootstrap resamples of sentences and seeds", minimum=100, maximum=100_000)

    def __post_init__(self) -> None:
        """Check every value; each stands once."""
        check_fields(self)
        for weight in self.weights:
            if not 0.0 < weight < 1.0:
                raise WheelsError(f"weights must be between 0 (hard) and 1 (soft), got {weight:g}")


@dataclass(frozen=True)
class CacheConfig:
    """What is measured of the cache."""

    sizes: tuple[int, ...] = option((8, 16, 32, 64, 128, 256), "tokens that are kept (k)", minimum=1, rising=True)
    temperatures: tuple[float, ...] = option((1.0, 2.0, 5.0, 10.0), "T of the error", minimum=0.01, rising=True)
    rows: int = option(1024, "training rows that are scored for bytes, seconds and error", minimum=1)
    rounds: int = option(5, "times that each kind of step is timed, in turn", minimum=1)
    steps: int = option(16, "steps of a round", minimum=1)
    k: int = option(64, "tokens that are kept where steps are timed and quality is compared", minimum=1)
    temperature: float = option(1.0, "T there", minimum=0.01)
    seeds: int = option(3, "students trained to the end, each from the cache and with the live teacher", minimum=1)
    size: str | None = option(None, "which of the recipe's sizes (default: the first)")
    resamples: int = option(1000, "bootstrap resamples of sentences and seeds", minimum=100, maximum=100_000)

    def __post_init__(self) -> None:
        """Check every value; sizes and temperatures are put in order."""
        check_fields(self)
        if self.temperature not in self.temperatures:
            object.__setattr__(self, "temperatures", tuple(sorted({*self.temperatures, self.temperature})))
