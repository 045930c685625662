"""Marks that tests share."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Return the values of a parameter that the fast tests leave out; a tuple is one value for each of several."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow) for value in values
    ]


def spread(first: Iterable[Any], second: Iterable[Any]) -> list[Any]:
    """Return all pairs of two parameters; the fast tests have each value of either, but with one of the other."""
    rows, columns = list(first), list(second)
    fast = {(place % len(rows), place % len(columns)) for place in range(max(len(rows), len(columns)))}
    return [
        pytest.param(row, column, marks=[] if (i, j) in fast else pytest.mark.slow)
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]
