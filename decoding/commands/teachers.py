"""Where the teacher of a command is: in a folder, there with a tokenizer of its own, or at an address."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from wheels.decoding.across.pair import load_pair
from wheels.decoding.remote.pair import teacher_at
from wheels.endpoints.address import is_address
from wheels.models.artefact import LoadPair


class TeacherSettings(Protocol):
    """What a command is told of its teacher."""

    @property
    def teacher(self) -> str | None: ...  # noqa: D102
    @property
    def teacher_model(self) -> str | None: ...  # noqa: D102
    @property
    def teacher_key(self) -> str: ...  # noqa: D102
    @property
    def teacher_prompt(self) -> str | None: ...  # noqa: D102
    @property
    def span(self) -> str: ...  # noqa: D102


def pair_loader(settings: TeacherSettings) -> tuple[LoadPair, str | None]:
    """Return what reads a pair, and the folder, hub id or name of its teacher."""
    if is_address(settings.teacher):
        name = str(settings.teacher_model)
        how = settings.span, settings.teacher_prompt
        return teacher_at(str(settings.teacher), name, settings.teacher_key, *how), name
    return partial(load_pair, span=settings.span), settings.teacher
