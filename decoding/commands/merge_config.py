"""What `wheels merge` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import REQUIRED, check_fields, option
from wheels.config.paths import FILE


@dataclass(frozen=True)
class MergeConfig:
    """Settings of one run of `wheels merge`.

    Raises:
        WheelsError: for a value that is not allowed.
    """

    output: str = option(
        REQUIRED, "the --output that the shards were written with", positional=True, metavar="OUTPUT", writes=FILE
    )

    def __post_init__(self) -> None:
        """Check every value."""
        check_fields(self)
