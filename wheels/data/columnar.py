"""Parquet and Arrow files, read a batch of rows at a time by pyarrow, which is imported only then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wheels.data.lines import Records, refuse_twins
from wheels.errors import WheelsError, shown

REFERENCES = "references"
"""The column of further references, which rows may have and need not."""
PARQUET, ARROW = b"PAR1", b"ARROW1"
"""How the files begin; an Arrow stream, as `datasets` keeps it, begins with `STREAM`."""
STREAM = b"\xff\xff\xff\xff"
BATCH = 1024
"""Rows that are held at once."""


def parquet_records(path: Path, wanted: Sequence[str] | None) -> Records:
    """Yield the rows of a Parquet file, with the columns that are wanted; see `arrow_records`."""
    with _one_line(path, "Parquet"):
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            names = _columns(path, file.schema_arrow.names, wanted)
            yield from _records(path, file.iter_batches(batch_size=BATCH, columns=names))


def arrow_records(path: Path, wanted: Sequence[str] | None) -> Records:
    """Yield the rows of an Arrow file or stream.

    Args:
        path: of the file.
        wanted: the columns that are needed; dots reach nested ones. All of them, where this is None or one is missing.

    Raises:
        WheelsError: naming the file where it is damaged, and the row and the column of a value that is no text.
    """
    with _one_line(path, "Arrow"):
        import pyarrow

        with pyarrow.memory_map(str(path)) as file:
            if file.read(len(ARROW)) == ARROW:
                reader = pyarrow.ipc.open_file(file)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                file.seek(0)
                batches = reader = pyarrow.ipc.open_stream(file)
            names = _columns(path, reader.schema.names, wanted)
            parts = (part for batch in batches for part in _parts(batch.select(names)))
            yield from _records(path, parts)


def roots(names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the columns of a table that hold those that are wanted; all, where this is None or one is missing.

    `REFERENCES` may be missing.
    """
    needed = [name for name in wanted or () if name != REFERENCES or name in names]
    found = [name if name in names else name.partition(".")[0] for name in needed]
    return list(dict.fromkeys(found)) if found and set(found) <= set(names) else list(names)


def _columns(path: Path, names: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the columns to read.

    Raises:
        WheelsError: where two have one name.
    """
    refuse_twins(str(path), names)
    return roots(names, wanted)


def _parts(batch: Any) -> Iterator[Any]:
    """Yield a batch in slices: a file may have been written as one."""
    for start in range(0, batch.num_rows, BATCH):
        yield batch.slice(start, BATCH)


def _records(path: Path, batches: Iterable[Any]) -> Records:
    number = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except (UnicodeDecodeError, ValueError):
            rows = _one_by_one(path, number, batch)
        for row in rows:
            number += 1
            yield f"{path}: row {number}", row


def _one_by_one(path: Path, before: int, batch: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows before the one that has a value which is none in Python.

    Raises:
        WheelsError: naming its row and column.
    """
    for index in range(batch.num_rows):
        row = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = column[index].as_py()
            except UnicodeDecodeError as error:
                byte = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
                raise WheelsError(f"{path}: row {before + index + 1}: {name!r} is not UTF-8: {byte}") from None
            except ValueError as error:
                raise WheelsError(
                    f"{path}: row {before + index + 1}: {name!r} cannot be read: {shown(error)}"
                ) from None
        yield row


@contextmanager
def _one_line(path: Path, kind: str) -> Iterator[None]:
    """Turn what pyarrow raises into one line."""
    import pyarrow

    try:
        yield
    except WheelsError:
        raise
    except FileNotFoundError:
        raise WheelsError(f"{path}: no such file") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WheelsError(f"{path}: not a whole {kind} file: {reason}; write it again") from error
