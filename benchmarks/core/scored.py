"""The data that a benchmark scores on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wheels.data.tasks import Task, load_task


class ScoredData(Protocol):
    """What a benchmark's configuration says of its data."""

    @property
    def data(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def target(self) -> str: ...  # noqa: D102
    @property
    def metrics(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def bad_rows(self) -> str: ...  # noqa: D102


def scored_task(config: ScoredData) -> Task:
    """Return the task that a configuration names, with its metrics, or the task's own where it names none.

    Raises:
        WheelsError: as `load_task`.
    """
    return load_task(
        config.data,
        source=config.source,
        target=config.target,
        metrics=config.metrics or None,
        bad_rows=config.bad_rows,
    )
