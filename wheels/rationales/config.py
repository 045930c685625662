"""The configuration of `wheels rationales`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import MOST_THREADS, REQUIRED, check_fields, machine_option, option, option_group
from wheels.config.paths import FILE, PLACE, RUN
from wheels.data.splits import SPLITS
from wheels.data.tasks import check_prompt
from wheels.errors import WheelsError

METHODS = ("saliency", "saliency-per-token", "gradient-x-input", "integrated-gradients", "random")
MERGES = ("max", "sum")
TARGETS = ("reference", "own")
BASELINES = ("end", "pad", "mean")

data_option = option_group("data")
attribution_option = option_group("attribution")
output_option = option_group("output")


@dataclass(frozen=True)
class RationalesConfig:
    """Settings of one run of `wheels rationales`."""

    teacher: str = option(REQUIRED, "model whose gradients say which words matter", metavar="DIR", reads=PLACE)
    data: str = option(REQUIRED, "file of rows, folder or hub:owner/name", metavar="DATA", reads=PLACE)
    output: str = option(
        REQUIRED, "JSONL file to write: each row as it was, with its rationale", metavar="FILE", writes=RUN
    )
    split: str = data_option("train", "the split that is read, unless it is one file", choices=SPLITS)
    source: str = data_option("source", "column of the sources; dots reach nested ones", metavar="NAME")
    target: str = data_option("target", "column of the references", metavar="NAME")
    column: str = output_option(
        "rationale", "column to write; NAME_words has all words with their scores", metavar="NAME"
    )
    prompt: str | None = data_option(None, "text the teacher reads, with {source} in it (default: its own)")
    limit: int | None = option(None, "read only the first rows", minimum=1)

    top_k: int = option(5, "words of a rationale", minimum=1)
    method: str = option("saliency", "how a token's weight is measured", choices=METHODS)
    of: str = option(
        "reference", "the target whose probability is attributed; own: what the teacher writes itself", choices=TARGETS
    )
    merge: str = attribution_option("max", "a word's score from those of its tokens", choices=MERGES)
    steps: int = attribution_option(32, "of integrated-gradients: points on the way from the baseline", minimum=1)
    baseline: str = attribution_option(
        "end", "of integrated-gradients: the token whose embedding is the baseline (mean: of all)", choices=BASELINES
    )
    seed: int = attribution_option(0, "of random", minimum=0)

    html: str | None = option(None, "page to write, the words shaded by their weight", metavar="FILE", writes=FILE)
    html_rows: int = output_option(100, "rows on that page", minimum=1)
    batch_size: int = machine_option(32, "rows per forward pass", minimum=1)
    max_new_tokens: int = data_option(64, "longest output of the teacher's own", minimum=1)
    device: str = machine_option("cpu", "cpu or cuda")
    threads: int = machine_option(0, "CPU threads; 0: torch's choice", minimum=0, maximum=MOST_THREADS)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.prompt is not None:
            check_prompt(self.prompt)
        for name in ("teacher", "data", "output", "column"):
            if not getattr(self, name):
                raise WheelsError(f"{name} must not be empty")
