"""What `wheels models` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import DTYPES, REQUIRED, check_fields, machine_option, option, threads_option
from wheels.config.paths import FILE, PLACE
from wheels.errors import WheelsError

ALL = "all"
"""Every family that is listed."""


@dataclass(frozen=True)
class ModelsConfig:
    """Settings of one run of `wheels models`.

    Raises:
        WheelsError: for a value that is not allowed.
    """

    check: tuple[str, ...] = option(
        REQUIRED,
        "families, such as gemma3_text, of which a small random model is made; folders or hub ids of models; or all",
        metavar="MODEL,...",
        reads=PLACE,
    )
    output: str | None = option(None, "file of the result, JSON", metavar="FILE", writes=FILE)
    device: str = machine_option("cpu", "device of the models, such as cpu or cuda")
    dtype: str = machine_option(
        "float32", "number format; below float32 near-ties may fall another way", choices=DTYPES
    )
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        """Check every value; each name stands once."""
        check_fields(self)
        if not self.check:
            raise WheelsError("check must name at least one family or folder, got none")
        object.__setattr__(self, "check", tuple(dict.fromkeys(self.check)))
