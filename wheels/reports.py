"""Where a run may send what it logs, beside its own files: TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from wheels.config.fields import Option
from wheels.errors import WheelsError

REPORTS = ("tensorboard", "wandb", "trackio")
"""The services, by the names of their packages."""
TENSORBOARD_FOLDER = "tensorboard"
"""Where a run's folder keeps the events that `tensorboard --logdir` shows."""


def report_option(option: Option) -> Any:
    """Return the field of the services that a run reports to, in the group of `option`."""
    return option((), "services that get what is logged", choices=REPORTS)


def check_reports(names: Sequence[str]) -> None:
    """Refuse a service whose package is absent, before any work is done.

    Raises:
        WheelsError: naming the package and how to install it.
    """
    for name in names:
        if find_spec(name) is None:
            raise WheelsError(
                f"report_to {name!r} needs the package {name}, which is not installed; run `pip install {name}`, or "
                "leave it out"
            )
