"""Lazy public names of a package, imported on first access."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy(
    package: str, places: Mapping[str, Sequence[str]], own: Sequence[str] = ()
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__all__`, `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: Its `__name__`.
        places: Public names by the module that defines them; under the package's own name: its modules.
        own: Public names that the package defines itself.
    """
    module_of = {name: module for module, names in places.items() for name in names}
    public = sorted({*own, *module_of})

    def get(name: str) -> Any:
        module = module_of.get(name)
        if module is None:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=sys.modules[package])
        return import_module(f"{package}.{name}") if module == package else getattr(import_module(module), name)

    return public, get, lambda: public
