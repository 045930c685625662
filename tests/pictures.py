"""Pictures, looked at by tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from wheels.benchmarks.core.style import LIGHT, Theme, settings


def pixels(png: bytes) -> np.ndarray:
    """Return a picture's pixels, 0 to 1."""
    return matplotlib.image.imread(io.BytesIO(png))


def drawn(draw: Callable[..., Figure], *what: Any, theme: Theme = LIGHT) -> Figure:
    """Return a figure whose texts have been laid out."""
    with matplotlib.rc_context(settings(theme)):
        figure = draw(*what, theme)
        figure.draw_without_rendering()
    return figure
