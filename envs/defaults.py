"""The default pair and data of an environment: the embedded ones."""

from __future__ import annotations

from collections.abc import Sequence

from wheels.data.tasks import Row, load_task
from wheels.errors import WheelsError
from wheels.models.pair import Pair

TASK = "embedded-translation"


def pair_and_rows(pair: Pair | None, rows: Sequence[Row] | None) -> tuple[Pair, Sequence[Row]]:
    """Fill in what was not given.

    Raises:
        WheelsError: for a pair of one's own without rows, or where this installation has no embedded pair.
    """
    if pair is not None and rows is None:
        raise WheelsError("a pair of one's own needs rows: pass rows=[Row(source, target), ...] or a task's rows")
    if pair is None:
        from wheels.models.artefact import Artefact

        pair = Artefact.load().pair
    return pair, load_task(TASK).train if rows is None else rows
