"""Warnings that are shown once, however often they occur."""

from __future__ import annotations

import functools
import logging


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, the first time in this process."""
    logging.getLogger("wheels").warning(message)
