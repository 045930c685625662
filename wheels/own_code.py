"""Objects of the user's own: `FILE.py:NAME` or `package.module:NAME`, read when they are asked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from wheels.errors import WheelsError

FORMS = "FILE.py:NAME or package.module:NAME"
"""How such an object is named."""


def is_place(given: str) -> bool:
    """Tell whether something is given by where it stands: `my_rules.py:gap`, or `package.module:gap`."""
    place, _, name = given.rpartition(":")
    return bool(place) and name.isidentifier()


def whole_place(given: str) -> str:
    """Return a name or place so that it means the same in every folder."""
    file, _, name = given.rpartition(":")
    return f"{os.path.abspath(file)}:{name}" if file.endswith(".py") else given


def read_own(given: str, kind: str) -> tuple[Any, str]:
    """Return what stands at a place, or None, and 16 hexadecimal digits of the SHA-256 of its file.

    Args:
        given: `FILE.py:NAME` or `package.module:NAME`.
        kind: what is looked for there, for errors.

    Raises:
        WheelsError: where the file or module is missing, or fails.
    """
    place, _, name = given.rpartition(":")
    module = _module_of(place, kind)
    import hashlib  # on demand, as below: `--help` runs without

    code = Path(str(module.__file__)).read_bytes()
    return getattr(module, name, None), hashlib.sha256(code).hexdigest()[:16]


def _module_of(place: str, kind: str) -> ModuleType:
    """Import a file by its path, or a module by its name."""
    import importlib.util

    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(f"wheels_own_{Path(place).stem}", place)
        assert spec is not None and spec.loader is not None, "a name that ends in .py has a loader"
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look for their module
        spec.loader.exec_module(module)
        return module
    except Exception as error:  # whatever a file of the user's does
        raise WheelsError(f"cannot read {kind} from {place}: {type(error).__name__}: {error}; mend it") from error
