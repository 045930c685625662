"""Journals: files of JSON lines that only grow. A line is there as a whole or not at all."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wheels.errors import WheelsError
from wheels.files import write_bytes
from wheels.json_text import parse_object

log = logging.getLogger("wheels")


def append_line(path: Path, record: Mapping[str, Any], *, sync: bool = False) -> None:
    """Add a line to a journal; a line that the disk has no room for is taken back.

    Args:
        path: of the journal.
        record: what the line holds; JSON escapes any line feed within it.
        sync: whether the line is to be on disk before this returns.

    Raises:
        WheelsError: where it cannot be written.
    """
    line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _write_whole(handle, line)
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
        if sync and new:
            _sync(path.parent)
    except OSError as error:
        raise WheelsError(f"cannot write {path}: {error.strerror or error}; make room, and run it again") from error


def _write_whole(handle: int, line: bytes) -> None:
    """Write a line to the end of a file, or leave the file as it was."""
    size = os.fstat(handle).st_size
    try:
        while line:
            line = line[os.write(handle, line) :]
    except OSError:
        os.ftruncate(handle, size)
        raise


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a journal that end; what follows the last line feed was cut short by a kill.

    Raises:
        WheelsError: where it cannot be read.
    """
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise WheelsError(f"cannot read {path}: {error.strerror or error}") from error


def mend(path: Path) -> list[bytes]:
    """Return the lines of a journal that goes on, and cut off one that was cut short."""
    lines = whole_lines(path)
    whole = sum(map(len, lines)) + len(lines)
    if whole < path.stat().st_size:
        log.warning("%s: its last line was cut short, and is dropped", path)
        os.truncate(path, whole)
        _sync(path)
    return lines


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_line(path: Path, record: Mapping[str, Any], same: Callable[[Mapping[str, Any]], bool]) -> None:
    """Write a line in place of the one that is about the `same`; where there is none, after all others."""
    new, found = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace"), False
    lines = mend(path) if path.is_file() else []
    for place, line in enumerate(lines):
        with suppress(WheelsError):
            if not found and same(parse_object(line, str(path), finite=False)):
                lines[place], found = new, True
    if found:
        write_bytes(path, b"".join(line + b"\n" for line in lines))
    else:
        append_line(path, record)


def keep_lines(path: Path, wanted: Callable[[Mapping[str, Any]], bool], *needed: str) -> None:
    """Drop what is not `wanted` from a journal that goes on, and lines that are damaged or lack a key that is `needed`.

    Args:
        path: of the journal; where there is none nothing is done.
        wanted: whether a record stays.
        needed: keys of every record.
    """
    if not path.is_file():
        return
    kept = []
    for line in whole_lines(path):
        try:
            if wanted(parse_object(line, str(path), *needed, finite=False)):
                kept.append(line + b"\n")
        except (WheelsError, TypeError):
            continue
    if (content := b"".join(kept)) != path.read_bytes():
        write_bytes(path, content)
