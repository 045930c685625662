"""Rows: the examples of a task, made of the columns of a file's rows and checked one by one."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheels.data.columnar import REFERENCES
from wheels.data.conversations import COLUMN, Conversation, answer_of, check_messages, is_list, split_answer
from wheels.data.formats import read_records
from wheels.data.options import BAD_ROWS
from wheels.errors import WheelsError, check_choice, did_you_mean
from wheels.json_text import kind_of_value

if TYPE_CHECKING:
    from wheels.metrics.names import Reference

log = logging.getLogger("wheels")


@dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes:
        source: what the model reads: a text, or a `wheels.data.conversations.Conversation`, which is one too.
        target: the reference; "" where none is given.
        references: further texts, each as good as the target.
        rationale: why the target is right; "" where none is given.
    """

    source: str
    target: str
    references: tuple[str, ...] = ()
    rationale: str = ""

    @property
    def scored_against(self) -> Reference:
        """What a metric compares a text with: the target, and the further references where there are any."""
        return (self.target, *self.references) if self.references else self.target


@dataclass(frozen=True)
class Columns:
    """The columns that rows are made of. A dotted name reaches into nested ones ("translation.de")."""

    source: str = "source"
    target: str = "target"
    references: str | None = None
    """Further references: a text or a list of texts. Without a column `target`, the first of them is the target.

    None: those of a column `references`, where a row has one that holds texts.
    """
    rationale: str | None = None
    require_target: bool = True
    """Whether a row without a target is bad; otherwise its target is ""."""

    @property
    def names(self) -> list[str]:
        """The names that are given."""
        names = (self.source, self.target, self.references or REFERENCES, self.rationale)
        return [name for name in names if name is not None]


class BadRow(WheelsError):
    """A row that does not fit.

    Args:
        place: such as `FILE:LINE`.
        reason: what is wrong with it, the column first; the same words for the same mistake.
        advice: what else there is to say.
    """

    def __init__(self, place: str, reason: str, advice: str = "") -> None:
        super().__init__(f"{place}: {reason}{advice}")
        self.reason = reason


def load_rows(
    path: Path | str,
    *,
    source: str = "source",
    target: str = "target",
    references: str | None = None,
    rationale: str | None = None,
    require_target: bool = True,
    limit: int | None = None,
    bad_rows: str = "stop",
) -> list[Row]:
    """Return the rows of a file; see `wheels.data.formats` for what it may be.

    Blank lines are skipped. A column is named as in the file; a dotted name reaches into nested ones
    ("translation.de"), unless the file has a column of exactly that name. A source that is a list of messages is a
    conversation, whose last message of the assistant is the target; rows without a column `source` may have `messages`.

    Args:
        path: of the file.
        source: name of the source's column; a line of plain text is such a column.
        target: name of the target's column.
        references: name of the column of further references; None: `references`, where there is one.
        rationale: name of the rationale's column.
        require_target: whether a row without a target is an error; otherwise its target is "".
        limit: how many rows to read at most; the rest of the file is not looked at.
        bad_rows: `stop` or `skip` where a row does not fit.

    Raises:
        WheelsError: naming the file, the row and the column, for anything that is not such a row; for an empty file.
    """
    columns = Columns(source, target, references, rationale, require_target)
    return rows_of(str(path), read_records(path, limit, wanted=columns.names, line=source), columns, bad_rows)


def rows_of(name: str, records: Iterable[tuple[str, Mapping[str, Any]]], columns: Columns, bad_rows: str) -> list[Row]:
    """Return the rows in the records of `name`.

    Raises:
        WheelsError: where one does not fit, with the number of all of them, and no bad row may be skipped; where
            none is left; where they would fill more than half of the memory.
    """
    check_choice("bad_rows", bad_rows, BAD_ROWS)
    rows: list[Row] = []
    bad: list[BadRow] = []
    held, most = 0, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for place, record in records:
        try:
            rows.append(row_of(record, place, columns))
        except BadRow as error:
            bad.append(error)
            continue
        held += sum(map(sys.getsizeof, (rows[-1].source, rows[-1].target, *rows[-1].references)))
        if held > most:
            full = f"{len(rows):,} rows fill {most >> 30} GiB, half of the memory"
            raise WheelsError(f"{place}: {full}; read fewer by --limit, or give a part of the data")
    if bad and (bad_rows == "stop" or not rows):
        others = f" (with {len(bad) - 1:,} more bad rows of {len(rows) + len(bad):,})" if len(bad) > 1 else ""
        raise WheelsError(f"{bad[0]}{others}")
    if bad:
        warn_of_bad_rows(name, bad, len(rows) + len(bad))
    return rows


def warn_of_bad_rows(name: str, bad: Sequence[BadRow], count: int) -> None:
    """Log how many of so many rows do not fit and why, and the first of each kind."""
    kinds = Counter(error.reason for error in bad)
    first = {error.reason: error for error in reversed(bad)}
    told = "; ".join(f"{number:,} as {first[reason]}" for reason, number in kinds.most_common(5))
    log.warning("%s: %d of %d rows left out: %s", name, len(bad), count, told)


def row_of(record: Mapping[str, Any], place: str, columns: Columns) -> Row:
    """Return the row that a record holds; errors name `place`.

    Raises:
        BadRow: where a column is missing, is not a string or is empty, or messages are no conversation.
    """
    source, answer = _source(record, columns.source, place)
    if not source.strip():
        raise BadRow(place, f"{columns.source!r} is empty", "; drop the row or fill it in")
    references = _references(record, columns.references, place)
    if answer:
        target = answer
    elif references and not _reach(record, columns.target)[0]:
        target, references = references[0], references[1:]
    else:
        target = _target(record, columns, place, messages=isinstance(source, Conversation))
    if columns.require_target and not target.strip():
        raise BadRow(place, f"{columns.target!r} is empty", "; drop the row or fill it in")
    rationale = "" if columns.rationale is None else _field(record, columns.rationale, place, optional=True)
    return Row(source, target, tuple(text for text in references if text != target), rationale)


def _source(record: Mapping[str, Any], name: str, place: str) -> tuple[str, str]:
    """Return a text and "", or a conversation and the message of the assistant at its end; "" where it has none."""
    if name == "source" and COLUMN in record and not _reach(record, name)[0]:
        name = COLUMN
    if not is_list(said := _reach(record, name)[1]):
        return _field(record, name, place), ""
    try:
        return split_answer(check_messages(said))
    except WheelsError as error:
        raise BadRow(place, f"{name!r} {error}") from None


def _target(record: Mapping[str, Any], columns: Columns, place: str, *, messages: bool) -> str:
    """Return the target: a text or, after `messages`, the text of one message of the assistant."""
    if not messages or not is_list(given := _reach(record, columns.target)[1]):
        return _field(record, columns.target, place, optional=not columns.require_target)
    try:
        return answer_of(given)
    except WheelsError as error:
        raise BadRow(place, f"{columns.target!r} {error}") from None


def _references(record: Mapping[str, Any], name: str | None, place: str) -> tuple[str, ...]:
    """Return the texts in a column of one text, a list of them or null; none where no column is asked for or there."""
    found, value = _reach(record, name or REFERENCES)
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if found and isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        return tuple(texts)
    if name is None:
        return ()
    if found:
        raise BadRow(place, f"{name!r} must be a text or a list of texts, got {kind_of_value(value)}")
    _field(record, name, place)
    return ()


def _field(record: Mapping[str, Any], name: str, place: str, optional: bool = False) -> str:
    """Return the text in the column `name` of a record."""
    found, value = _reach(record, name)
    if optional and (not found or value is None):
        return ""
    if not found:
        columns = sorted(_columns(record))
        have = ", ".join(columns) or "none"
        raise BadRow(place, f"no column {name!r}", f"; the columns are: {have}{did_you_mean(name, columns)}")
    if not isinstance(value, str):
        raise BadRow(place, f"{name!r} must be a string, got {kind_of_value(value)}")
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
