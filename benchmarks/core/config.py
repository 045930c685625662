"""What several benchmarks can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wheels.config.fields import (
    DTYPES,
    REQUIRED,
    check_fields,
    machine_option,
    option,
    option_group,
    quantization_option,
    teacher_device_option,
    threads_option,
)
from wheels.config.paths import PLACE, RUN, SETTINGS
from wheels.data.options import bad_rows_option
from wheels.errors import WheelsError

data_option = option_group("data")
statistics_option = option_group("statistics")


@dataclass(frozen=True)
class PairConfig:
    """The pair that is measured, the rows that it is scored on, and how its models run."""

    model: str | None = option(
        None, "folder of a trained model (default: the embedded pair)", metavar="DIR", reads=PLACE
    )
    teacher: str | None = option(None, "folder or hub id of the teacher (default: the model's own)", reads=PLACE)
    data: str = option("embedded-translation", "task, folder, file or hub:owner/name to score on", reads=PLACE)
    limit: int | None = option(None, "score only the first rows", minimum=1)
    split: str = data_option("test", "split of the data that is scored")
    source: str = data_option("source", "column of the source; dots reach nested ones")
    target: str = data_option("target", "column of the reference")
    bad_rows: str = bad_rows_option(data_option)
    max_new_tokens: int = data_option(128, "longest output, in tokens", minimum=1)
    resamples: int = statistics_option(1000, "bootstrap resamples of rows and seeds", minimum=100, maximum=100_000)
    batch_size: int = machine_option(64, "rows decoded at once", minimum=1)
    device: str = machine_option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = machine_option("float32", "number format of both models", choices=DTYPES)
    teacher_device: str | None = teacher_device_option()
    teacher_quantization: str | None = quantization_option()
    threads: int | None = threads_option()


def output_option(default: str) -> Any:
    """Return the field of the folder of a run by a recipe."""
    return option(default, "folder for models and results; a rerun into it continues", metavar="DIR", writes=RUN)


@dataclass(frozen=True)
class RecipeConfig:
    """What a run by a recipe is told beside it."""

    recipe: str = option(
        REQUIRED, "YAML file with the settings of each stage, or the name of a shipped one", reads=SETTINGS
    )
    data: str = option(REQUIRED, "task, folder or hub:owner/name with train, validation and test splits", reads=PLACE)
    output: str = output_option("")
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("recipe", "data", "output"):
            if not getattr(self, name):
                raise WheelsError(f"{name} must not be empty")
