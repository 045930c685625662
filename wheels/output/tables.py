"""A table is described once, by columns over rows, and written for a terminal, as CSV or as HTML."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wheels.output.visible import html


def exact(value: Any) -> str:
    """Return a value as a file holds it: numbers with six digits, nothing for what does not exist."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return "" if value is None else str(value)


def number(value: float | None, digits: int = 1, sign: str = "") -> str:
    """Return a number for print, never a minus before a zero; a dash where there is none."""
    return f"{value:{sign}z.{digits}f}" if value is not None and math.isfinite(value) else "-"


def digits(count: int, sign: str = "") -> Callable[[float | None], str]:
    """Return the format of numbers with `count` digits after the point; `sign` is "+" to show that of every number."""
    return lambda value: number(value, count, sign)


def band(row: Mapping[str, Any], count: int = 2, sign: str = "") -> str:
    """Return the interval from `low` to `high` in brackets; a dash where there is none."""
    low, high = (number(row[end], count, sign) for end in ("low", "high"))
    return "-" if low == "-" else f"[{low}, {high}]"


def estimate(value: float, row: Mapping[str, Any], count: int = 2, sign: str = "") -> str:
    """Return a value with its interval."""
    return f"{number(value, count, sign)} {band(row, count, sign)}"


@dataclass(frozen=True)
class Column:
    """A heading, and how a row's cell is found and written."""

    name: str
    value: str | Callable[[Any], Any] = ""
    """A function of the row, or its field or key (`use`, `metrics.bleu`); by default that named as the column."""
    show: Callable[[Any], str] = exact

    def cell(self, row: Any) -> str:
        """Return the text of a row's cell."""
        if callable(self.value):
            return self.show(self.value(row))
        for part in self.value.split(".") if self.value else [self.name]:
            row = row[part] if isinstance(row, Mapping) else getattr(row, part)
        return self.show(row)


def columns(
    *names: str, show: Callable[[Any], str] = exact, under: str = "", heading: Callable[[str], str] = str
) -> list[Column]:
    """Return columns of the rows' fields with these names, or of those of the field `under`."""
    return [Column(heading(name), f"{under}.{name}" if under else name, show) for name in names]


@dataclass(frozen=True)
class Cell:
    """A cell that says more on a page than its text."""

    text: str
    note: str = ""
    """Stands below, small; its line breaks are kept."""
    best: bool = False
    """Whether it is the best of its column, in bold."""
    pale: bool = False
    """Whether it is no finding."""

    def __str__(self) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True)
class Table:
    """Headings, and rows of cells: texts, or values that are written by `exact`."""

    head: Sequence[str]
    """Empty where nothing is written above the rows."""
    rows: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, columns: Sequence[Column], rows: Iterable[Any]) -> Table:
        """Return the table that columns make of rows of any kind."""
        return cls([column.name for column in columns], [[column.cell(row) for column in columns] for row in rows])

    @property
    def lines(self) -> list[list[str]]:
        """The texts of all cells, the headings first."""
        return [[*map(exact, line)] for line in (self.head, *self.rows) if line]

    def text(self, title: str = "") -> str:
        """Return the table for a terminal: the first column to the left, the others to the right, a title above."""
        lines = self.lines
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        padded = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
        above = [f"{title}:"] if title else []
        return "\n".join([*above, *("  ".join(line).rstrip() for line in padded)])

    def csv(self) -> str:
        """Return the table as CSV."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(self.lines)
        return buffer.getvalue()

    def html(self) -> str:
        """Return the table as HTML; it scrolls where a page is too narrow, its first column stays."""
        head = "".join(f"<th>{html(exact(name))}</th>" for name in self.head)
        body = "".join("<tr>" + "".join(map(_html_of, row)) + "</tr>" for row in self.rows)
        return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _html_of(cell: Any) -> str:
    """Return a cell as HTML."""
    if not isinstance(cell, Cell):
        return f"<td>{html(exact(cell))}</td>"
    text = f"<b>{html(cell.text)}</b>" if cell.best else html(cell.text)
    note = f"<small>{html(cell.note)}</small>" if cell.note else ""
    look = ' class="pale"' if cell.pale else ""
    return f"<td{look}>{text}{note}</td>"
