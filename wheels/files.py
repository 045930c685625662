"""Files that are either whole or absent: every output is written beside its place and then moved there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wheels.errors import WheelsError


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write `content` to `path` atomically: a reader sees the old file or the new one, never a part.

    Raises:
        WheelsError: where the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WheelsError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    return path


def write_text(path: Path | str, text: str) -> Path:
    """Write `text` to `path` as UTF-8, atomically."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> Path:
    """Write `value` to `path` as indented JSON, atomically."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path | str, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write objects, one a line; see `write_text`."""
    return write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_json(path: Path | str) -> Any:
    """Return the JSON value that stands in `path`.

    Raises:
        WheelsError: where the file is missing, or is not JSON: names the file and the line.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise WheelsError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except OSError as error:
        raise WheelsError(f"cannot read {path}: {error.strerror or error}") from error


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `path` as a whole when the block ends without an error.

    An older folder of that name is replaced only then.

    Raises:
        WheelsError: where the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise WheelsError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.replace(path, old / "x")
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
