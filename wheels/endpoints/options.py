"""The options of a teacher behind an address, and what goes with them. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wheels.config.fields import check_elsewhere, loading_of
from wheels.data.tasks import check_template
from wheels.endpoints.address import is_address
from wheels.errors import WheelsError
from wheels.secret import DEFAULT_KEY, read_secret

ELSEWHERE = "a teacher behind an address"
TEACHER = "folder or hub id of the teacher, or http://host:port/v1 of a server with it"
WRITTEN = "{written}"
"""Where the beginning of an output stands in the prompt of a teacher that is asked in words."""


def teacher_options(make: Callable[..., Any]) -> tuple[Any, Any]:
    """Return the options of a teacher's name at its server, and of the server's key."""
    return (
        make(None, "what that server calls the teacher", metavar="NAME"),
        make(DEFAULT_KEY, "environment variable that holds the server's key, if it wants one", metavar="NAME"),
    )


def teacher_prompt_option(make: Callable[..., Any]) -> Any:
    """Return the option of what a teacher reads that is asked in words."""
    return make(
        None,
        "what a teacher reads that is asked in words, a chat for one, with {source} in it; and {written} where it "
        "continues no beginning (default: what the student reads)",
        metavar="TEXT",
        check=check_teacher_prompt,
    )


def check_teacher_prompt(name: str, given: str) -> None:
    """Raise a `WheelsError` for what is no prompt of a teacher; the check of an option."""
    check_template(name, given, "source", *(["written"] if WRITTEN in given else []))


def check_teacher(config: Any) -> None:
    """Refuse an address without a name or with what folders need, a name without one, and a key that is not there."""
    model, key = config.teacher_model, config.teacher_key
    if is_address(config.teacher):
        if not model:
            raise WheelsError("a server has its models by name: give --teacher-model NAME")
        read_secret(key, "--teacher-key")
        check_elsewhere(loading_of(config))
    elif getattr(config, "teacher_prompt", None) is not None:
        raise WheelsError(f"teacher_prompt {config.teacher_prompt!r} is for a teacher behind an address; leave it out")
    elif model:
        raise WheelsError(f"teacher_model {model!r} is a name at a server, but teacher is no http(s):// address")
    elif key != DEFAULT_KEY:
        raise WheelsError(f"teacher_key {key!r} is for a teacher behind an address; leave it out")
