"""What `wheels bench rationales` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.benchmarks.core.config import RecipeConfig, output_option
from wheels.config.fields import check_fields, option
from wheels.rationales.config import METHODS

CONTROLS = ("none", "random", "untrained-teacher", "given")


@dataclass(frozen=True)
class BenchRationalesConfig(RecipeConfig):
    """Settings of `wheels bench rationales`; what is trained stands in a recipe."""

    output: str = output_option("rationales")


@dataclass(frozen=True)
class GridConfig:
    """Which students are trained, on rationales of what kind and length, and how all of them are scored."""

    methods: tuple[str, ...] = option(("saliency",), "ways of attribution", choices=METHODS, once=True)
    ks: tuple[int, ...] = option((1, 3, 5, 10), "words of a rationale, of the first method", minimum=1, rising=True)
    k: int = option(5, "words of a rationale, of every other method and control", minimum=1)
    controls: tuple[str, ...] = option(
        ("none", "random", "untrained-teacher"), "what they are compared with", choices=CONTROLS, once=True, empty=True
    )
    given: str = option("rationale", "column of the rationales that the rows came with, for the control `given`")
    seeds: int = option(3, "students of each kind", minimum=1)
    metric: str = option(
        "exact", "right answers: exact (the text), answer (the number at its end), or equation (what it comes to)"
    )
    batch_size: int = option(64, "rows attributed, and decoded, at once", minimum=1)
    steps: int = option(16, "of integrated-gradients", minimum=1)
    merge: str = option("max", "a word's score from those of its tokens", choices=("max", "sum"))
    limit: int | None = option(None, "score only the first test rows", minimum=1)
    overlap: str = option("words", "what of the target is looked for in the source", choices=("words", "numbers"))
    published: float | None = option(None, "accuracy of Ballout et al. on the task's official data, shown beside ours")
    resamples: int = option(1000, "bootstrap resamples of rows and seeds", minimum=100, maximum=100_000)
    captum: bool = option(False, "time saliency beside Captum's, which must be installed")

    def __post_init__(self) -> None:
        """Check every value; each of a list stands once, lengths in order."""
        check_fields(self)
