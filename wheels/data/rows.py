"""Rows: the examples of a task, read from JSONL files and checked one by one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wheels.data.lines import read_lines
from wheels.errors import WheelsError, did_you_mean
from wheels.json_text import kind_of_value, parse_object

# How an array, and an object of more than one line, begin.
_ARRAY = re.compile(r'\[\s*($|[\[{"])')
_OBJECT = re.compile(r'\{\s*($|"[^"]*"\s*:)')


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes:
        source: what the model reads.
        target: the reference; "" where none is given.
        references: further texts that a terminal reward compares with, each as good as the target.
    """

    source: str
    target: str
    references: tuple[str, ...] = ()


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
    """Return the records of a JSONL file with all their columns, each with its position ("file:line").

    Raises:
        WheelsError: naming the file and the line, for a line that is no JSON object; for an empty file.
    """
    check_limit(limit)
    return records_of(str(path), itertools.islice(read_lines(path), limit))


def records_of(name: str, lines: Iterable[tuple[str, str]]) -> list[tuple[str, dict[str, Any]]]:
    """Return the records on the lines of the file `name`, each with its line number.

    Raises:
        WheelsError: naming the file and the line, for a line that is no JSON object; for no line at all.
    """
    records: list[tuple[str, dict[str, Any]]] = []
    for place, line in lines:
        if not records:
            refuse_other_formats(name, line)
        records.append((place, parse_object(line, place)))
    if not records:
        raise WheelsError(f"{name}: the file is empty; it must hold one JSON object a line")
    return records


def refuse_other_formats(name: str, first: str, columns: Iterable[str] = ()) -> None:
    """Raise a `WheelsError` where a file's name or first line shows another format than texts or rows.

    Args:
        name: of the file.
        first: its first line that is not blank.
        columns: names that a table's header would hold.
    """
    first = first.strip()
    cells = {cell.strip().strip('"').casefold() for cell in re.split("[,;\t]", first)}
    if name.lower().removesuffix(".gz").endswith((".csv", ".tsv")) or (
        len(cells) > 1 and not cells.isdisjoint(columns)
    ):
        raise WheelsError(f"{name}: a table (CSV); convert it to .jsonl, one object with named fields a line")
    if _ARRAY.match(first):
        raise WheelsError(f"{name}: a JSON array; write one object a line (jq -c '.[]' FILE > FILE.jsonl)")
    if _OBJECT.match(first) and not is_object(first):
        raise WheelsError(
            f"{name}: a JSON object over several lines; write one object a line (jq -c . FILE > FILE.jsonl)"
        )


def is_object(line: str) -> bool:
    """Return whether a line is a whole JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def check_limit(limit: int | None) -> None:
    """Raise a `WheelsError` unless `limit` is None or at least 1."""
    if limit is not None and limit < 1:
        raise WheelsError(f"limit must be at least 1 row, got {limit}")


def row_of(record: Mapping[str, Any], place: str, source: str, target: str, require_target: bool) -> Row:
    """Return the row that a record holds in its columns `source` and `target`; errors name `place`.

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
        raise WheelsError(f"{place}: {name!r} must be a string, got {kind_of_value(value)}")
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
