"""Lazy public names of a package, imported on first access."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

NAME = re.compile(r"^    from (\S+) import (\w+) as \2$", re.MULTILINE)
"""A public name, in a package's block `if TYPE_CHECKING:`, which type checkers and editors read too."""


def lazy(package: str, *own: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__all__`, `__getattr__` and `__dir__` of a package (PEP 562).

    Its public names are those that its source imports, one a line, as `    from MODULE import NAME as NAME`.

    Args:
        package: Its `__name__`.
        own: Public names that the package defines itself.
    """
    spec: Any = sys.modules[package].__spec__
    module_of = {name: module for module, name in NAME.findall(spec.loader.get_source(package))}
    public = sorted({*own, *module_of})

    def get(name: str) -> Any:
        module = module_of.get(name)
        if module is None:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=sys.modules[package])
        return import_module(f"{package}.{name}") if module == package else getattr(import_module(module), name)

    return public, get, lambda: public
