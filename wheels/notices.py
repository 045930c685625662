"""What a user is told once, however often it comes up."""

from __future__ import annotations

import functools
import logging


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, the first time in this process."""
    logging.getLogger("wheels").warning(message)
