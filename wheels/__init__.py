"""Adaptive inference: a small student writes, and calls a large teacher for a token where that is worth its price."""

import os.path as _path
from importlib import import_module as _import_module
from typing import Any as _Any

__version__ = "0.1.0"

# In a checkout `envs/`, `agents/`, ... stand beside this folder; an installed package has them inside it.
if not _path.isdir(_path.join(_path.dirname(__file__), "envs")):
    __path__.append(_path.dirname(_path.dirname(_path.abspath(__file__))))


def __getattr__(name: str) -> _Any:
    """Return `decode`, the hook for transformers' `generate` (`wheels.decoding.hf.generate`); it brings torch."""
    if name == "decode":
        return _import_module("wheels.decoding.hf.generate").decode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
