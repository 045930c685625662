"""Errors that a user can cause, and the words that help to mend them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
        raise WheelsError(f"{name} must be one of {', '.join(options)}, got {given!r}{did_you_mean(given, options)}")
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


def is_of_machine(error: BaseException) -> bool:
    """Whether an error says that the machine lacks memory or a device, or that a device failed."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"MemoryError", "OutOfMemoryError", "AcceleratorError"}:
        return True
    return "RuntimeError" in kinds and any(sign in str(error) for sign in MACHINE_SIGNS)


MACHINE_SIGNS = (
    "allocate memory",
    "not enough memory",
    "out of memory",
    "CUDA error",
    "CUDA driver",
    "cuBLAS",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "NVIDIA driver",
    "not compiled with",
    "No CUDA GPUs",
    "meta tensor",
)
"""What torch writes where memory or a device is lacking or fails: these errors have no type of their own."""
