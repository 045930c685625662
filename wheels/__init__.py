"""Adaptive inference: a small student writes, and calls a large teacher for a token where that is worth its price."""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import Any as _Any

__version__ = "0.1.0"

# In a checkout `envs/`, `agents/`, ... stand beside this folder; an installed package has them inside it.
if not (_Path(__file__).parent / "envs").is_dir():
    __path__.append(str(_Path(__file__).parent.parent))


def __getattr__(name: str) -> _Any:
    """Return `decode`, the hook for transformers' `generate` (`wheels.decoding.custom_generate`); it brings torch."""
    if name == "decode":
        return _import_module("wheels.decoding.custom_generate").decode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
