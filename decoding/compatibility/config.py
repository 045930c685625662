"""What `wheels models` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import REQUIRED, check_fields, option, threads_option
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
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        """Check every value; each name stands once."""
        check_fields(self)
        if not self.check:
            raise WheelsError("check must name at least one family or folder, got none")
        object.__setattr__(self, "check", tuple(dict.fromkeys(self.check)))
