"""Text files, plain or compressed: their lines, each with its file and line number."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol, cast

from wheels.errors import WheelsError

Records = Iterator[tuple[str, dict[str, Any]]]
"""Rows with all their columns, each with its place, such as `FILE:LINE`."""
LONGEST_LINE = 16 << 20
"""Bytes of one line: more than any model reads at once, and little beside the memory of any machine."""
MOST_BLANK = 100_000
"""Blank lines in a row."""
MOST_UNPACKED = 64 << 20
"""Bytes that a compressed file may hold whatever its own size; beyond, at most `MOST_RATIO` times its size."""
MOST_RATIO = 200

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# How files begin that are no lines of text, and what each is to be made into.
_BINARY = {
    b"\x1f\x8b": ("gzip", "give it as a file, or unpack it (gzip -dc)"),
    b"PK\x03\x04": ("a zip archive (as .xlsx, .docx and .npz are)", "unpack it, or export the table as .csv"),
    b"PAR1": ("Parquet", "give it as a file that is not compressed again"),
    b"ARROW1": ("Arrow", "give it as a file that is not compressed again"),
    b"FEA1": ("Feather of version 1", "write it anew (pyarrow.feather.write_feather)"),
    b"\xd0\xcf\x11\xe0": ("an old Office file (such as .xls)", "export the table as .csv"),
    b"BZh9": ("bzip2", "unpack it (bzip2 -dc)"),
    b"\xfd7zXZ": ("xz", "unpack it (xz -dc)"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unpack it (zstd -dc)"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"%PDF-": ("PDF", "export the text"),
    b"SQLite format 3": ("SQLite", "export the rows as .csv"),
    b"\xff\xfe": ("UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save it as UTF-8"),
    b"\x00\x00\xfe\xff": ("UTF-32", "save it as UTF-8"),
}


def refuse_twins(place: str, names: Sequence[str | None]) -> None:
    """Raise a `WheelsError` naming `place` where two columns have one name; None is a column without."""
    for number, name in enumerate(names, 1):
        if name is not None and names.index(name) + 1 < number:
            raise WheelsError(f"{place}: columns {names.index(name) + 1} and {number} are both {name!r}; rename one")


class Readable(Protocol):
    """A binary stream that is read by lines: a file, plain or compressed, or standard input."""

    def readline(self, size: int, /) -> bytes:
        """Return the next line, or its first `size` bytes; nothing at the end."""


@dataclass(frozen=True)
class TextFile:
    """An open text file."""

    file: BufferedReader
    """Its bytes, unpacked."""
    most: int | None
    """The most bytes that it may hold; None for any number."""


@contextmanager
def open_text(path: Path | str) -> Iterator[TextFile]:
    """Open a file to read its lines; what begins as gzip does, or is named `.gz`, is decompressed.

    Raises:
        WheelsError: where it is missing, is no file, or is not whole gzip; also where that shows as it is read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz" or file.peek(2)[:2] == b"\x1f\x8b":
                most = max(MOST_UNPACKED, MOST_RATIO * path.stat().st_size)
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield TextFile(cast(BufferedReader, unpacked), most)
            else:
                yield TextFile(file, None)
    except FileNotFoundError:
        raise WheelsError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise WheelsError(f"{path}: not a whole gzip file: {error}; make it again") from None
    except OSError as error:
        raise WheelsError(f"{path}: cannot be read: {error.strerror or error}") from None


def all_lines(file: Readable, name: str, most: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line of `file`; a byte order mark at its start is dropped.

    Args:
        file: bytes in UTF-8.
        name: of the file, for places.
        most: the most bytes that it may hold; None for any number.

    Raises:
        WheelsError: naming what the file is, where it is no text; the line, and the byte's offset, that is not UTF-8,
            too long, one of too many blank ones, or holds a NUL.
    """
    offset = number = blank = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        place = f"{name}:{number}"
        if offset == 0:
            _refuse_binary(name, line)
        if len(line) > LONGEST_LINE:
            raise WheelsError(f"{place}: the line is longer than {LONGEST_LINE >> 20} MiB; give one text a line")
        text = _decoded(line, place, offset)
        offset += len(line)
        if most is not None and offset > most:
            raise WheelsError(f"{name}: more than {most >> 20:,} MiB of text; give it unpacked, or in parts")
        blank = 0 if text.strip() else blank + 1
        if blank > MOST_BLANK:
            raise WheelsError(f"{place}: more than {MOST_BLANK:,} blank lines in a row; remove them")
        yield number, text


def _refuse_binary(name: str, line: bytes) -> None:
    """Raise a `WheelsError` where the first bytes `line` show a known binary format."""
    for start, (kind, advice) in _BINARY.items():
        if line.startswith(start):
            raise WheelsError(f"{name}: {kind}, not lines of text; {advice}")


def _decoded(line: bytes, place: str, offset: int) -> str:
    if offset == 0 and line.startswith(_BYTE_ORDER_MARK):
        return _decoded(line[len(_BYTE_ORDER_MARK) :], place, offset + len(_BYTE_ORDER_MARK))
    if (at := line.find(b"\0")) >= 0:
        raise WheelsError(f"{place}: a NUL at offset {offset + at} of the file: not lines of text in UTF-8")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise WheelsError(
            f"{place}: not UTF-8: byte 0x{byte:02x} at offset {offset + error.start} of the file; save it as UTF-8"
        ) from None
