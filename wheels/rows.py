"""Rows: the examples of a task, read from JSONL files and checked one by one."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wheels.errors import WheelsError, did_you_mean
from wheels.lines import read_lines


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes:
        source: what the model reads.
        target: the reference; "" where none is given.
    """

    source: str
    target: str


def load_rows(
    path: Path | str,
    *,
    source: str = "source",
    target: str = "target",
    require_target: bool = True,
    limit: int | None = None,
) -> list[Row]:
    """Return the rows of a JSONL file; one whose name ends in `.gz` is decompressed.

    Blank lines are skipped. A column is named as in the file; a dotted name reaches into nested objects
    ("translation.de"), unless the file has a column of exactly that name.

    Args:
        path: of the file.
        source: name of the source's column.
        target: name of the target's column.
        require_target: whether a row without a target is an error; otherwise its target is "".
        limit: how many rows to read at most; the rest of the file is not looked at.

    Raises:
        WheelsError: naming the file, the line and the field, for anything that is not such a row; for an empty file.
    """
    records = read_records(path, limit)
    return [row_of(record, place, source, target, require_target) for place, record in records]


def read_records(path: Path | str, limit: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Return the records of a JSONL file with all their columns, each with its place ("file:line").

    Raises:
        WheelsError: naming the file and the line, for a line that is no JSON object; for an empty file.
    """
    check_limit(limit)
    records = [(place, _parse(place, line)) for place, line in itertools.islice(read_lines(path), limit)]
    if not records:
        raise WheelsError(f"{path}: the file is empty; it must hold one JSON object a line")
    return records


def check_limit(limit: int | None) -> None:
    """Raise a `WheelsError` unless `limit` is None or at least 1."""
    if limit is not None and limit < 1:
        raise WheelsError(f"limit must be at least 1 row, got {limit}")


def _parse(place: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise WheelsError(f"{place}: not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise WheelsError(f"{place}: not JSON that can be read: {error}") from None
    if not isinstance(record, dict):
        raise WheelsError(f"{place}: a row must be a JSON object with named fields, got {_kind(record)}")
    return record


def row_of(record: Mapping[str, Any], place: str, source: str, target: str, require_target: bool) -> Row:
    """Return the row that a record holds in its columns `source` and `target`; `place` says in errors where it stands.

    Raises:
        WheelsError: where a column is missing, is not a string or is empty.
    """
    text = _field(record, source, place)
    if not text.strip():
        raise WheelsError(f"{place}: {source!r} is empty; drop the row or fill it in")
    answer = _field(record, target, place, optional=not require_target)
    if require_target and not answer.strip():
        raise WheelsError(f"{place}: {target!r} is empty; drop the row or fill it in")
    return Row(text, answer)


def _field(record: Mapping[str, Any], name: str, place: str, optional: bool = False) -> str:
    """Return the text in the column `name` of a record."""
    found, value = _reach(record, name)
    if optional and (not found or value is None):
        return ""
    if not found:
        columns = sorted(_columns(record))
        have = ", ".join(columns) or "none"
        raise WheelsError(f"{place}: no column {name!r}; the columns are: {have}{did_you_mean(name, columns)}")
    if not isinstance(value, str):
        raise WheelsError(f"{place}: {name!r} must be a string, got {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise WheelsError(f"{place}: {name!r} has half a surrogate pair at character {error.start}") from None
    return value


def _reach(record: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    if name in record:
        return True, record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _columns(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _columns(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list", str: "a string"}
    return names.get(type(value), "an object")


def check_lengths(rows: Sequence[Row], lengths: Iterable[int], limit: int, name: Path | str) -> None:
    """Check that every row fits into the model.

    Args:
        rows: of one split.
        lengths: the tokens of each row's source, with the special ones.
        limit: the most tokens that the model can read.
        name: of the file or the task, for the error.

    Raises:
        WheelsError: for the first row that is too long: which it is, its length and the limit.
    """
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True), 1):
        if length > limit:
            start = row.source[:40].replace("\n", " ")
            raise WheelsError(
                f"{name}: row {number} ({start!r}...): its source has {length} tokens, the model reads at most "
                f"{limit}; shorten it or drop it"
            )
