"""What `wheels push` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wheels.config.fields import REQUIRED, check_fields, option
from wheels.config.paths import PLACE, RUN
from wheels.errors import WheelsError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class PushConfig:
    """Settings of `wheels push`.

    Raises:
        WheelsError: for a value that is not allowed.
    """

    model: str = option(REQUIRED, "folder of a trained model", metavar="DIR", reads=PLACE)
    to: str = option(REQUIRED, "repository of the Hub, owner/name; it is made where there is none", metavar="NAME")
    teacher: str | None = option(
        None, "repository of the teacher, owner/name@revision (default: as the model says)", metavar="NAME", reads=PLACE
    )
    results: str | None = option(
        None, "folder of `wheels bench curve`: its figures stand in the card", metavar="DIR", reads=PLACE
    )
    license: str | None = option(None, "licence of the weights, as the Hub spells it, such as apache-2.0")
    private: bool = option(False, "make the repository private")
    output: str | None = option(
        None, "write what would be pushed into this folder, and push nothing", metavar="DIR", writes=RUN
    )

    def __post_init__(self) -> None:
        """Check every value."""
        check_fields(self)
        for name in ("to", "teacher"):
            given = getattr(self, name)
            if given is not None and not REPOSITORY.fullmatch(given.partition("@")[0]):
                raise WheelsError(f"{name} must be a repository, owner/name, got {given!r}")
        if "@" in self.to:
            raise WheelsError(f"to must be a repository without a revision, got {self.to!r}")
