"""Outputs as a table in a Parquet file, with the columns of `Trace.to_json`. Imports pyarrow: only where needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow.parquet import ParquetFile, ParquetWriter

from wheels.files import open_output

GROUP = 1024
"""Rows of a row group: as many are held at once."""
_WHOLE, _NUMBER, _TEXT = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
_TOKEN = pyarrow.struct([("text", _TEXT), ("id", _WHOLE), ("author", _TEXT)])
_COUNTS = ("student_passes", "drafted", "accepted")
_BILL = [(name, _NUMBER) for name in ("requests", "prompt", "cached", "completion", "dollars", "teacher_dollars")]
SCHEMA = pyarrow.schema(
    [
        ("text", _TEXT),
        ("tokens", pyarrow.list_(_TOKEN)),
        ("teacher_use", _NUMBER),
        *((name, _WHOLE) for name in ("teacher_tokens", "teacher_passes", "teacher_positions", "prompt_positions")),
        ("budget", _NUMBER),
        ("mode", _TEXT),
        ("rule", _TEXT),
        ("seconds", _NUMBER),
        ("finished", pyarrow.bool_()),
        *((name, _WHOLE) for name in _COUNTS),
        ("acceptance", _NUMBER),
        ("wasted", _WHOLE),
        ("degraded", _WHOLE),
        ("runs_on", pyarrow.struct([("student", _TEXT), ("teacher", _TEXT)])),
        ("bill", pyarrow.struct(_BILL)),
        ("error", _TEXT),
    ]
)
"""Columns, the same for every run; `bill` and `error` are null where there is none."""


def write(lines: Iterable[bytes], output: Path) -> None:
    """Write JSON lines of outputs as a table."""
    rest = iter(lines)
    with open_output(output) as file, ParquetWriter(file, SCHEMA) as writer:
        while group := [_row(line) for line in islice(rest, GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(group, SCHEMA))


def join(parts: Sequence[Path], output: Path) -> None:
    """Write the rows of several tables into one, in their order."""
    with open_output(output) as file, ParquetWriter(file, SCHEMA) as writer:
        for part in parts:
            with ParquetFile(part) as table:
                for batch in table.iter_batches(GROUP):
                    writer.write_batch(batch.cast(SCHEMA))


def _row(line: bytes) -> dict[str, Any]:
    """Return one output."""
    row: dict[str, Any] = json.loads(line)
    return row
