"""The formats of files, each known by what a file holds or by how its name ends; one reader for all of them."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path

from wheels.data.columnar import ARROW, PARQUET, STREAM, arrow_records, parquet_records
from wheels.data.lines import Records, all_lines, open_text
from wheels.errors import WheelsError
from wheels.json_text import kind_of_value, parse_json, parse_object

ENDINGS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "auto",
}
"""How the names of files end, and the formats that they stand for; text forms may end in `.gz` besides."""
TEXT_ENDINGS = tuple(ending for ending, kind in ENDINGS.items() if kind not in ("parquet", "arrow"))
TEXT_FORMATS = ("text", "json", "csv", "tsv")
"""Formats that can be read from a pipe too. `json` is one object a line, or one list of objects."""
MOST_LIST = 1 << 30
"""Bytes of a list in JSON, which is held whole; lines are not."""

_LIST = re.compile(r'\[\s*($|[\[{"])')


def check_limit(limit: int | None) -> None:
    """Raise a `WheelsError` unless `limit` is None or at least 1."""
    if limit is not None and limit < 1:
        raise WheelsError(f"limit must be at least 1 row, got {limit}")


def stem_of(name: str) -> str:
    """Return the name of a file without the endings that say what it holds."""
    stem = name.removesuffix(".gz")
    return next((stem[: -len(ending)] for ending in ENDINGS if stem.lower().endswith(ending)), stem)


def format_of(name: str) -> str:
    """Return the format that the ending of a name stands for, or `auto`."""
    return ENDINGS.get(Path(name.removesuffix(".gz")).suffix.lower(), "auto")


def read_records(
    path: Path | str,
    limit: int | None = None,
    *,
    form: str = "auto",
    wanted: Sequence[str] | None = None,
    line: str = "source",
) -> Records:
    """Yield the rows of a file with their columns, each with its place: `FILE:LINE`, or `FILE: row N`.

    Parquet and Arrow are known by their first bytes. The other formats are known by the ending of the name, and without
    one by the first line: a JSON object, or text.

    Args:
        path: of the file.
        limit: how many rows to read at most; the rest of the file is not looked at.
        form: one of `TEXT_FORMATS` in place of what the name says.
        wanted: the columns that are needed, so that the others of a Parquet or Arrow file may stay unread.
        line: the column that a line of plain text stands for.

    Raises:
        WheelsError: naming the file, the row and the column, for what is not as its format says; for an empty file.
    """
    check_limit(limit)
    return islice(_records(Path(path), form, wanted, line), limit)


def _records(path: Path, form: str, wanted: Sequence[str] | None, line: str) -> Records:
    with open_text(path) as text:
        start, kind = text.file.peek(len(ARROW))[: len(ARROW)], format_of(path.name)
        if not start.startswith((PARQUET, ARROW, STREAM)):
            if kind in ("parquet", "arrow"):
                raise WheelsError(f"{path}: {f'not {kind.title()}' if start else 'empty'}, though its name says so")
            yield from text_records(text.file, str(path), form, line, text.most)
            return
        if text.most is not None:
            raise WheelsError(
                f"{path}: packed twice: Parquet and Arrow have their own compression; unpack it (gzip -d)"
            )
    yield from (parquet_records if start.startswith(PARQUET) else arrow_records)(path, wanted)


def text_records(
    file: BufferedReader, name: str, form: str = "auto", line: str = "source", most: int | None = None
) -> Records:
    """Yield the rows of an open file or a pipe in one of `TEXT_FORMATS`; see `read_records`."""
    kind = format_of(name) if form == "auto" else form
    records = (
        _listed(file, name, most) if kind == "json" and _is_list(file) else _on_lines(file, name, kind, line, most)
    )
    first = next(records, None)
    if first is None:
        raise WheelsError(f"{name}: nothing in it; it must hold rows, or one text a line")
    yield first
    yield from records


def _on_lines(file: BufferedReader, name: str, kind: str, column: str, most: int | None) -> Records:
    """Yield the rows of a format that is read line by line; `auto` is known by the first that is not blank."""
    lines, before, first = all_lines(file, name, most), list[tuple[int, str]](), ""
    for numbered in lines:
        before.append(numbered)
        if first := numbered[1].strip():
            break
    lines = chain(before, lines)
    if kind == "auto":
        kind = _shown_by(name, first, column)
    if kind == "json":
        _refuse_object(name, first)
        return ((f"{name}:{number}", parse_object(line, f"{name}:{number}")) for number, line in lines if line.strip())
    if kind == "text":
        return _texts(name, lines, column)
    from wheels.data.tables import table_records  # on demand: `--help` runs without

    return table_records(name, lines, "\t" if kind == "tsv" else None)


def _shown_by(name: str, first: str, column: str) -> str:
    """Return `json` or `text`, as the first line shows.

    Raises:
        WheelsError: where it shows another format, which texts could begin with too.
    """
    advice = "say so by its name (.{}), or by --input-format"
    cells = {cell.strip().strip('"').casefold() for cell in re.split("[,;\t]", first)}
    if len(cells) > 1 and column.casefold() in cells:
        raise WheelsError(f"{name}: a table (CSV), as it seems; {advice.format('csv')}")
    if _LIST.match(first):
        raise WheelsError(f"{name}: a list in JSON, as it seems; {advice.format('json')}")
    _refuse_object(name, first)
    return "json" if _is_object(first) else "text"


def _refuse_object(name: str, first: str) -> None:
    """Raise a `WheelsError` where the first line begins an object that does not end on it."""
    try:
        json.loads(first)
    except RecursionError:
        return
    except json.JSONDecodeError as error:
        if first.startswith("{") and error.pos >= len(first):
            advice = "write one object a line (jq -c . FILE > FILE.jsonl), or a list"
            raise WheelsError(f"{name}: a JSON object over several lines; {advice}") from None
    except ValueError:
        return


def _is_object(line: str) -> bool:
    """Return whether a line is a whole JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_list(file: BufferedReader) -> bool:
    """Return whether a file in JSON begins with a bracket."""
    return file.peek(1 << 12).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def _listed(file: BufferedReader, name: str, most: int | None) -> Records:
    """Yield the objects of a list in JSON."""
    most = min(most or MOST_LIST, MOST_LIST)
    content = file.read(most + 1)
    if len(content) > most:
        raise WheelsError(f"{name}: a list in JSON of more than {most >> 20:,} MiB; write one object a line (.jsonl)")
    values = parse_json(content, name, lines=True)
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            kind = kind_of_value(value)
            raise WheelsError(f"{name}: row {number}: must be a JSON object with named fields, got {kind}")
        yield f"{name}: row {number}", value


def _texts(name: str, lines: Iterable[tuple[int, str]], column: str) -> Records:
    """Yield each line as a row with one column; a blank one between others is an empty text."""
    blank: list[int] = []
    for number, line in lines:
        if not (text := line.strip()):
            blank.append(number)
            continue
        yield from ((f"{name}:{empty}", {column: ""}) for empty in blank)
        blank.clear()
        yield f"{name}:{number}", {column: text}
