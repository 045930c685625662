"""Lines of text files, plain or compressed, each with its file and line number."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from wheels.errors import WheelsError

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
    b"\x1f\x8b": ("gzip", "end its name in .gz, or unpack it (gzip -dc)"),
    b"PK\x03\x04": ("a zip archive (as .xlsx, .docx and .npz are)", "unpack it, or export the texts"),
    b"PAR1": ("Parquet", "convert it to .jsonl, one object a line"),
    b"ARROW1": ("Arrow", "convert it to .jsonl, one object a line"),
    b"\xd0\xcf\x11\xe0": ("an old Office file (such as .xls)", "export the texts"),
    b"BZh9": ("bzip2", "unpack it (bzip2 -dc)"),
    b"\xfd7zXZ": ("xz", "unpack it (xz -dc)"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unpack it (zstd -dc)"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"%PDF-": ("PDF", "export the text"),
    b"SQLite format 3": ("SQLite", "export the rows to .jsonl"),
    b"\xff\xfe": ("UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save it as UTF-8"),
    b"\x00\x00\xfe\xff": ("UTF-32", "save it as UTF-8"),
}


class Readable(Protocol):
    """A binary stream that is read by lines: a file, plain or compressed, or standard input."""

    def readline(self, size: int, /) -> bytes:
        """Return the next line, or its first `size` bytes; nothing at the end."""


def read_lines(path: Path | str) -> Iterator[tuple[str, str]]:
    """Yield ("file:line", text) for each line of a UTF-8 file that is not blank; `.gz` is decompressed.

    Raises:
        WheelsError: where the file is missing, is no file, is not gzip though named so or unpacks to more than any
            text would, or is not lines of text (see `text_lines`).
    """
    path = Path(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            most = max(MOST_UNPACKED, MOST_RATIO * path.stat().st_size) if path.suffix == ".gz" else None
            yield from text_lines(file, str(path), most)
    except FileNotFoundError:
        raise WheelsError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise WheelsError(f"{path}: not a whole gzip file though its name says so: {error}") from None
    except OSError as error:
        raise WheelsError(f"{path}: cannot be read: {error.strerror or error}") from None


def text_lines(file: Readable, name: str, most: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield ("name:line", text) for each line of `file` that is not blank; a byte order mark at its start is dropped.

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
        if not blank:
            yield place, text


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
