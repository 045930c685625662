"""Marks that tests share."""

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Return the values of a parameter that the fast tests leave out; a tuple is one value for each of several."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow) for value in values
    ]
