"""Options of the commands that read rows. Imports nothing that reads them, so that `--help` is instant."""

from __future__ import annotations

from typing import Any

from wheels.config.fields import Option
from wheels.own_code import FORMS

BAD_ROWS = ("stop", "skip")
"""What happens where rows do not fit: the command stops and counts them, or it goes on without them and says so."""
OWN_METRIC = f", or {FORMS}"
"""What the help of an option adds that takes a metric: it may be a function of the user's own."""


def bad_rows_option(option: Option) -> Any:
    """Return the field that says what happens at rows that do not fit, in the group of `option`."""
    return option("stop", "rows without a text in a column: stop, or skip them and say how many", choices=BAD_ROWS)


def references_option(option: Option) -> Any:
    """Return the field of the column of further references, in the group of `option`."""
    return option(
        None,
        "column of further references, each as good as the target, a text or a list (default: references, if there)",
    )
