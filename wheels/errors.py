"""Errors that a user can cause, with help to mend them."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Mapping, Set
from typing import Any


class WheelsError(ValueError):
    """An error that the user can mend: it says what was given, what is allowed, and what to do.

    The command line prints it as one line, without a traceback.
    """


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest of `allowed`, or nothing where none is near."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_choice(name: str, given: str, allowed: Iterable[str]) -> str:
    """Return `given` if it is one of `allowed`.

    Raises:
        WheelsError: naming what was given, everything allowed, and the nearest allowed value.
    """
    options = list(allowed)
    if given not in options:
        raise WheelsError(
            f"{name} must be one of {', '.join(options)}, got {given!r}{did_you_mean(str(given), options)}"
        )
    return given


def check_budget(given: object, name: str = "teacher_budget") -> float:
    """Return `given` as a share in [0, 1].

    Raises:
        WheelsError: for anything else (not a number, nan, a percentage), with the share that was probably meant.
    """
    try:
        if isinstance(given, bool):
            raise TypeError
        budget = float(given) + 0.0  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise WheelsError(f"{name} must be a number in [0, 1], got {given!r}") from None
    if not 0.0 <= budget <= 1.0:
        hint = f"; did you mean {budget / 100:g}?" if 1.0 < budget <= 100.0 else ""
        raise WheelsError(f"{name} must be in [0, 1], got {given}{hint}")
    return budget


MOST_WHOLE, MOST_NUMBER = 2**31 - 1, 1e9
"""The largest numbers that every library takes, where a setting says nothing else."""


def check_number(name: str, given: object, least: float = -MOST_NUMBER, most: float = MOST_NUMBER) -> float:
    """Return `given` as a finite number in `[least, most]`.

    Raises:
        WheelsError: for anything else: text, a truth value, nan, infinity.
    """
    if not isinstance(given, numbers.Real) or isinstance(given, bool) or given != given:
        raise WheelsError(f"{name} must be a number, got {shown(given)}")
    _check_range(name, given, least, most)
    return float(given)


def check_whole(name: str, given: object, least: int = 0, most: int = MOST_WHOLE) -> int:
    """Return `given` as a whole number in `[least, most]`.

    Raises:
        WheelsError: for anything else.
    """
    if not isinstance(given, numbers.Integral) or isinstance(given, bool):
        raise WheelsError(f"{name} must be a whole number, got {shown(given)}")
    _check_range(name, given, least, most)
    return int(given)


def _check_range(name: str, given: Any, least: float, most: float) -> None:
    if given < least:
        raise WheelsError(f"{name} must be at least {least}, got {given}")
    if given > most:
        raise WheelsError(f"{name} must be at most {most}, got {given}")


def check_kind(name: str, given: object, kind: Any, allowed: str) -> None:
    """Raise a `WheelsError` where `given` is not of a type, or of one of several: `name must be <allowed>, got ...`."""
    if not isinstance(given, kind):
        raise WheelsError(f"{name} must be {allowed}, got {shown(given)}")


def check_texts(name: str, given: object) -> list[str]:
    """Return `given`, an iterable of texts, as a list.

    Raises:
        WheelsError: for one text, whose letters would be taken for texts, and for what holds anything but texts.
    """
    if isinstance(given, str):
        raise WheelsError(f"{name} must be a list of texts, got one text, {shown(given)}; put it in brackets")
    if not isinstance(given, Iterable) or isinstance(given, bytes | Mapping | Set):
        raise WheelsError(f"{name} must be a list of texts, got {shown(given)}")
    texts = list(given)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise WheelsError(f"{name} must be texts, got {shown(text)} as number {number} of {len(texts)}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            place = f"character {error.start + 1} of number {number} of {len(texts)}"
            raise WheelsError(f"{name} are not UTF-8 at {place}; remove it") from None
    return texts


def shown(value: object) -> str:
    """Return a value for an error message: on one line, only its type where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{type(value).__name__} ({text[:40]}...)"


MEMORY_SIGNS = (
    "allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "_ALLOC_FAILED",
    "size calculation overflow",
)
DEVICE_SIGNS = (
    "CUDA error",
    "CUDA driver",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "NVIDIA driver",
    "not compiled with",
    "No CUDA GPUs",
    "meta tensor",
)
"""What torch writes where memory is short, or a device fails or is absent: these errors have no type of their own."""


def is_of_machine(error: BaseException) -> bool:
    """Whether an error says that the machine lacks memory or a device, or that a device failed."""
    return _lacks_memory(error) or _is_runtime(error, DEVICE_SIGNS) or type(error).__name__ == "AcceleratorError"


def machine_failure(error: BaseException) -> str:
    """Return such an error as one line with advice."""
    message = str(error).strip().partition("\n")[0]
    if _lacks_memory(error):
        return (
            f"out of memory{message and f' ({message})'}; use a smaller batch size, shorter outputs or a smaller model"
        )
    return f"the device failed ({message}); try another one, or the processor (cpu)"


def _lacks_memory(error: BaseException) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or _is_runtime(error, MEMORY_SIGNS)


def _is_runtime(error: BaseException, signs: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
