"""Tables: the rows of CSV and TSV text, read by the standard library's `csv`."""

from __future__ import annotations

import bisect
import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from wheels.data.lines import LONGEST_LINE, Records, refuse_twins
from wheels.errors import WheelsError

SEPARATORS = (",", ";", "\t")
"""What separates the columns of a `.csv`: the one that its first line holds most of, as spreadsheets differ."""

# The library's own limit, 131,072 characters, is shorter than a long document.
csv.field_size_limit(max(LONGEST_LINE, csv.field_size_limit()))


def table_records(name: str, lines: Iterable[tuple[int, str]], separator: str | None = None) -> Records:
    """Yield the rows of a table under its first line, which names the columns; every cell is a text.

    Quoting is RFC 4180's: a cell that holds the separator, a quote or a line break stands in quotes, and quotes in it
    are doubled. Blank lines between rows are skipped, and columns without a name.

    Args:
        name: of the file, for places.
        lines: all of its lines, with their numbers.
        separator: of the columns; None to see it in the first line.

    Raises:
        WheelsError: naming file, line and column, where a name stands twice, a row has more or fewer cells, or a quote
            is wrong.
    """
    rows = _rows(name, lines, separator)
    place, header = next(rows, (name, []))
    names = [cell.strip() for cell in header]
    refuse_twins(place, [name or None for name in names])
    for place, cells in rows:
        if len(cells) != len(names):
            have = ", ".join(filter(None, names))
            raise WheelsError(
                f"{place}: {len(cells)} columns, the first line names {len(names)} ({have}); put a text that holds the "
                "separator in quotes"
            )
        yield place, {column: cell for column, cell in zip(names, cells, strict=True) if column}


def _rows(name: str, lines: Iterable[tuple[int, str]], separator: str | None) -> Iterator[tuple[str, list[str]]]:
    """Yield the cells of each row that holds anything, with its place."""
    recent: list[tuple[int, str]] = []  # the lines of the row that is read

    def noted() -> Iterator[str]:
        for number, line in lines:
            recent.append((number, line))
            yield line

    texts = noted()
    first = next((line for line in texts if line.strip()), "")
    del recent[:-1]
    separator = separator or max(SEPARATORS, key=first.count)
    reader = csv.reader(chain([first] if first else [], texts), delimiter=separator, strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            mistake = _mistake(str(error), [line for _, line in recent], separator)
            raise WheelsError(f"{name}:{recent[0][0]}: {mistake}") from None
        if cells is None:
            return
        place = f"{name}:{recent[0][0]}"
        recent.clear()
        if any(cells):
            yield place, cells


def _mistake(error: str, lines: Sequence[str], separator: str) -> str:
    """Return what is wrong in a row that does not parse: its column, and what to do."""
    if "end of data" in error or "field limit" in error:
        column = len(next(csv.reader(lines[:1], delimiter=separator)))
        return f"column {column}: its quote is never closed; close it, and double the quotes inside"
    if "expected after" not in error:
        return f"not a row of a table: {error}"
    text = "".join(lines)
    wrong = bisect.bisect_left(range(len(text)), True, key=lambda end: _fails(text[: end + 1], separator))
    column = len(next(csv.reader(text[:wrong].splitlines(keepends=True), delimiter=separator)))
    return f"column {column}: text after the quote that ends it; double the quotes inside a quoted text"


def _fails(text: str, separator: str) -> bool:
    """Whether the beginning of a row has a wrong quote already."""
    try:
        list(csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=True))
    except csv.Error as error:
        return "expected after" in str(error)
    return False
