"""Items that are made once and kept.

Beside an item stands its seal, which is written last: `FILE.seal` of a file, `FOLDER/.seal` of a folder.

    {"made_from": ..., "digests": {"": "9f86d0..."}}    SHA-256 of each file, by its name in the folder

An item counts where its seal names the same origin and its bytes are those that were sealed. Else it is made again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from wheels.errors import WheelsError
from wheels.files import check_writable, read_json, read_object, write_bytes, write_json
from wheels.json_text import parse_json

log = logging.getLogger("wheels")

Made = TypeVar("Made")


@dataclass(frozen=True)
class Form(Generic[Made]):
    """How an item stands in a file."""

    suffix: str
    write: Callable[[Made], bytes]
    """Returns the content of the file."""
    read: Callable[[Path], Made]
    """Returns the item of a file that is whole."""


def _to_lines(objects: Iterable[Mapping[str, Any]]) -> bytes:
    """Return objects as JSON lines, compressed; the same objects give the same bytes."""
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    return gzip.compress(text.encode("utf-8"), mtime=0)


def _from_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of compressed JSON lines."""
    # Of bytes: in a text U+2028 would end a line too.
    return [parse_json(line, str(path), finite=False) for line in gzip.decompress(path.read_bytes()).splitlines()]


def _to_json(value: Any) -> bytes:
    """Return a value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n"


JSON: Form[Any] = Form(".json", _to_json, partial(read_json, finite=False))
LINES: Form[list[dict[str, Any]]] = Form(".jsonl.gz", _to_lines, _from_lines)
"""Objects, one a line; they are many."""


def cached(path: Path, made_from: Any, make: Callable[[], Made], form: Form[Made] = JSON) -> Made:
    """Return the item that `path` keeps, or make it and keep it.

    Args:
        path: its file.
        made_from: everything that it depends on, as a value of JSON; what the folder's run depends on may be left out.
        make: returns it.
        form: of the file.

    Returns:
        The item as it was read from the file, so that a run that was resumed sees what the first one saw.

    Raises:
        WheelsError: where it cannot be written; asked before it is made.
    """
    if not is_whole(path, made_from):
        check_writable(path)
        made = form.write(make())
        _seal_of(path).unlink(missing_ok=True)
        write_bytes(path, made)
        seal(path, made_from)
    return form.read(path)


def chunks(
    folder: Path,
    made_from: Any,
    numbers: Iterable[int],
    make: Callable[[int], Made],
    form: Form[Made] = JSON,
    *,
    name: str = "",
) -> Iterator[Made]:
    """Yield the parts of a long job in order, each `cached`, so that a killed run resumes after the last one.

    Args:
        folder: where they are kept, as `NAME00000.SUFFIX` and so on.
        made_from: what the job depends on; see `cached`.
        numbers: of the wanted parts; processes that share a job make some each.
        make: returns a part, by its number.
        form: the format of the files.
        name: the prefix of their names.
    """
    for number in numbers:
        yield cached(folder / f"{name}{number:05d}{form.suffix}", [made_from, number], partial(make, number), form)


def seal(path: Path, made_from: Any) -> None:
    """Say that a file or folder is whole, and what it was made from."""
    write_json(_seal_of(path), {"made_from": made_from, "digests": digests(path)})


def is_whole(path: Path, made_from: Any) -> bool:
    """Whether a file or folder was made from `made_from` and is as it was sealed; damage is logged."""
    note = _seal_of(path)
    if not note.is_file() or not path.exists():
        return False
    try:
        found = read_object(note, "made_from", "digests", finite=False)
    except WheelsError:
        found = {"made_from": made_from, "digests": None}
    if found["made_from"] != json.loads(json.dumps(made_from)):
        return False
    if found["digests"] != digests(path):
        log.warning("%s is damaged; it is made again", path)
        return False
    return True


def last_whole(folder: Path) -> Path | None:
    """Return the newest whole one of the folders `checkpoint-N`; those after it, which are damaged, are deleted."""
    found = [path for path in folder.glob("checkpoint-*") if number_of(path) >= 0]
    for path in sorted(found, key=number_of, reverse=True):
        if is_whole(path, None):
            return path
        shutil.rmtree(path, ignore_errors=True)
    return None


def number_of(checkpoint: Path) -> int:
    """Return N of the folder `checkpoint-N`; -1 for another name."""
    digits = checkpoint.name.removeprefix("checkpoint-")
    return int(digits) if digits.isdigit() else -1


def digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of a file under the name '', or of each file of a folder by its name in it."""
    if path.is_file():
        return {"": digest_of(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != _seal_of(path))
    return {file.relative_to(path).as_posix(): digest_of(file) for file in files}


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits; of one that is gone nothing."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _seal_of(path: Path) -> Path:
    """Return the file that seals a file or a folder."""
    return path / ".seal" if path.is_dir() else path.with_name(f"{path.name}.seal")
