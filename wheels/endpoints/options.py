"""The options of a teacher behind an address, and what goes with them. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wheels.endpoints.address import is_address
from wheels.errors import WheelsError
from wheels.secret import DEFAULT_KEY, read_secret

ELSEWHERE = "a teacher behind an address"
TEACHER = "folder or hub id of the teacher, or http://host:port/v1 of a server with it"


def teacher_options(make: Callable[..., Any]) -> tuple[Any, Any]:
    """Return the options of a teacher's name at its server, and of the server's key."""
    return (
        make(None, "what that server calls the teacher", metavar="NAME"),
        make(DEFAULT_KEY, "environment variable that holds the server's key, if it wants one", metavar="NAME"),
    )


def check_teacher(teacher: str | None, model: str | None, key: str) -> None:
    """Refuse an address without a name, a name without an address, and a key that is not there."""
    if is_address(teacher):
        if not model:
            raise WheelsError("a server has its models by name: give --teacher-model NAME")
        read_secret(key, "--teacher-key")
    elif model:
        raise WheelsError(f"teacher_model {model!r} is a name at a server, but teacher is no http(s):// address")
    elif key != DEFAULT_KEY:
        raise WheelsError(f"teacher_key {key!r} is for a teacher behind an address; leave it out")
