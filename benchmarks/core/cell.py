"""The outputs of one decode, sentence by sentence, and the file that keeps them so that a rerun need not repeat it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wheels.decoding.trace import STUDENT, TEACHER, Trace
from wheels.files import write_bytes
from wheels.json_text import parse_object


@dataclass(frozen=True)
class Record:
    """What one sentence's decode did."""

    text: str
    """The output."""
    tokens: int
    """Generated tokens, the end of sequence included."""
    teacher_tokens: int
    """Those that the teacher wrote."""
    teacher_passes: int
    """Teacher forward passes for this sentence."""
    teacher_positions: int
    """Positions of the output that the teacher read."""
    seconds: float
    """Its share of the batch's wall-clock time."""
    pieces: tuple[str, ...] = ()
    """Text of each token."""
    authors: tuple[str, ...] = ()
    """`student` or `teacher` for each token."""
    token_ids: tuple[int, ...] = ()
    """Each token's id; empty in a record that was kept before ids were."""

    @classmethod
    def of(cls, trace: Trace) -> Record:
        """Return the record of a decoding trace."""
        return cls(
            text=trace.text,
            tokens=trace.tokens,
            teacher_tokens=trace.teacher_tokens,
            teacher_passes=trace.teacher_passes,
            teacher_positions=trace.teacher_positions,
            seconds=trace.seconds,
            pieces=trace.pieces,
            authors=trace.authors,
            token_ids=trace.token_ids,
        )

    @property
    def use(self) -> float:
        """Share of the tokens that the teacher wrote; 0 for an empty output."""
        return self.teacher_tokens / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, order=True)
class PointKey:
    """Which decode: a rule (or an end) with a seed and a budget."""

    rule: str
    seed: int
    budget: float

    @property
    def file_name(self) -> str:
        """Name of the file that keeps it."""
        return f"{self.rule}-{self.seed}-{self.budget!r}.jsonl.gz"


# Budgets 0 and 1 give the student's and the teacher's own outputs whatever the rule: decoded once, for all rules.
STUDENT_END = PointKey(STUDENT, 0, 0.0)
TEACHER_END = PointKey(TEACHER, 0, 1.0)


def save_point(folder: Path, key: PointKey, signature: Mapping[str, Any], records: Iterable[Record]) -> Path:
    """Write one decode atomically: the signature on the first line, then a record a line."""
    return save_lines(folder / key.file_name, signature, map(asdict, records))


def load_point(folder: Path, key: PointKey, signature: Mapping[str, Any]) -> list[Record] | None:
    """Return the kept records, or None where there are none made under exactly this `signature`.

    A file that cannot be read counts as none: it is only a saved repetition.
    """
    lines = load_lines(folder / key.file_name, signature)
    try:
        return None if lines is None else [_record(line) for line in lines]
    except (KeyError, TypeError):
        return None


def save_lines(path: Path, signature: Mapping[str, Any], objects: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON objects atomically: the signature on the first line, then an object a line."""
    lines = [json.dumps(dict(signature), sort_keys=True)]
    lines += [json.dumps(dict(one), ensure_ascii=False) for one in objects]
    content = gzip.compress(("\n".join(lines) + "\n").encode("utf-8"), mtime=0)
    return write_bytes(path, content)


def load_lines(path: Path, signature: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the objects that `save_lines` wrote under exactly this `signature`, or None."""
    try:
        # Not splitlines(): an output may hold other line separators, such as U+2028.
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").rstrip("\n").split("\n")
        if parse_object(lines[0], str(path), finite=False) != json.loads(json.dumps(dict(signature))):
            return None
        return [parse_object(line, str(path), finite=False) for line in lines[1:]]
    except (OSError, EOFError, zlib.error, ValueError, IndexError):
        return None


def kept_or_made(
    folder: Path,
    key: PointKey,
    signature: Mapping[str, Any],
    make: Callable[[], list[Record]],
    progress: Callable[[int], object],
) -> list[Record]:
    """Return the records that are kept, or make them now, which reports its own progress, and keep them."""
    kept = load_point(folder, key, signature)
    if kept is not None:
        progress(len(kept))
        return kept
    made = make()
    save_point(folder, key, signature, made)
    return made


def _record(fields: dict[str, Any]) -> Record:
    """Return the record that `fields` describe."""
    lists = {"pieces": fields["pieces"], "authors": fields["authors"], "token_ids": fields.get("token_ids", ())}
    return Record(**fields | {name: tuple(values) for name, values in lists.items()})
