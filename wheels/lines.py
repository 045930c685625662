"""Lines of text files, plain or compressed, each with its place."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from wheels.errors import WheelsError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path | str) -> Iterator[tuple[str, str]]:
    """Yield ("file:line", text) for each line of a UTF-8 file that is not blank; `.gz` is decompressed.

    A byte order mark at the beginning is dropped.

    Raises:
        WheelsError: where the file is missing, is no file, is not gzip though named so, or is not UTF-8 (with the line,
            and the byte's offset in the file).
    """
    path = Path(path)
    offset = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = _decoded(line, f"{path}:{number}", offset)
                offset += len(line)
                if text.strip():
                    yield f"{path}:{number}", text
    except FileNotFoundError:
        raise WheelsError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise WheelsError(f"{path}: not a whole gzip file though its name says so: {error}") from None
    except OSError as error:
        raise WheelsError(f"{path}: cannot be read: {error.strerror or error}") from None


def _decoded(line: bytes, place: str, offset: int) -> str:
    if offset == 0 and line.startswith(_BYTE_ORDER_MARK):
        return _decoded(line[len(_BYTE_ORDER_MARK) :], place, offset + len(_BYTE_ORDER_MARK))
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise WheelsError(
            f"{place}: not UTF-8: byte 0x{byte:02x} at offset {offset + error.start} of the file; save it as UTF-8"
        ) from None
