"""Adaptive inference: a small student writes, and calls a large teacher for a token where that is worth its price."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a checkout `envs/`, `agents/`, ... stand beside this folder; an installed package has them inside it.
if not (_Path(__file__).parent / "envs").is_dir():
    __path__.append(str(_Path(__file__).parent.parent))
