"""The paths of a configuration: no output overwrites an input or another output; files of settings have digests."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wheels.errors import WheelsError

SETTINGS, PLACE = "settings", "place"
"""What a field with `reads` names: a file of settings; or data or a model, which may be a name or an address too."""
PAGE = ".html"
"""Files of this name are read by no command."""
FILE, RUN = "file", "run"
"""What a field with `writes` names: a file that is written over; or a place that one run takes, and holds."""


def check_paths(fields: Sequence[Any], config: Any, config_file: str | None = None) -> None:
    """Refuse an output that is also an input or another output, also through links.

    Args:
        fields: those of the configuration, of `wheels.config.fields.Field`.
        config: holds their values.
        config_file: the file of `--config`, an input too.

    Raises:
        WheelsError: naming both.
    """
    read = [*_paths(fields, config, "reads"), *([("config", config_file)] if config_file else [])]
    written: list[tuple[str, str]] = []
    for name, path in _paths(fields, config, "writes"):
        mode = _mode(path)
        if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            continue  # /dev/stdout may be many things at once
        twins = [other for other, place in read if os.path.exists(place) and _same(path, place)]
        twins += [other for other, place in written if _same(path, place)]
        twins += ["standard input"] if _is_standard_input(path) else []
        if twins:
            raise WheelsError(f"{name} is the same place as {twins[0]}: {path!r}; give another --{name}")
        written.append((name, path))
    for name, path in _paths(fields, config, "writes", FILE):
        for other, place in read:
            if os.path.isfile(path) and not path.endswith(PAGE) and _is_within(path, place):
                raise WheelsError(f"{name} is a file of {other} {place!r}: {path!r}; give another --{name}")


def settings_digests(fields: Sequence[Any], config: Any) -> dict[str, str]:
    """Return `<field>_digest` of each file of settings: 16 hexadecimal digits of its SHA-256.

    The content of such a file decides the result, so it is part of a run's identity.

    Raises:
        WheelsError: where one cannot be read.
    """
    return {f"{name}_digest": _digest(path) for name, path in _paths(fields, config, "reads", SETTINGS)}


def _digest(path: str) -> str:
    import hashlib  # on demand: `--help` runs without

    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise WheelsError(f"cannot read {path}: {error.strerror or error}") from error


def _paths(fields: Sequence[Any], config: Any, how: str, kind: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield the paths that are read or written, with their fields' names."""
    for field in fields:
        value = getattr(config, field.name)
        if field.metadata.get(how) and kind in (None, field.metadata[how]):
            yield from ((field.name, path) for path in (value if field.many else (value,)) if path)


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return None


def _same(path: str, other: str) -> bool:
    """Whether two paths are the same file or folder, existing or not."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _is_within(path: str, folder: str) -> bool:
    """Whether a file is inside a folder, at any depth."""
    return os.path.isdir(folder) and Path(folder).resolve() in Path(path).resolve().parents


def _is_standard_input(path: str) -> bool:
    """Whether a file is redirected to standard input, as in `wheels generate --output x < x`."""
    try:
        return os.path.isfile(path) and os.path.samestat(os.fstat(0), os.stat(path))
    except OSError:
        return False
