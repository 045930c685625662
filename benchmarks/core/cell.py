"""Records of one decode, sentence by sentence, cached in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from wheels.decoding.trace import STUDENT, TEACHER, Trace
from wheels.runs import LINES, cached


@dataclass(frozen=True)
class Record:
    """What one sentence's decode did."""

    text: str
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
    authors: tuple[str, ...] = ()
    """`student` or `teacher` for each token."""
    token_ids: tuple[int, ...] = ()
    student_passes: int = 0
    """Student forward passes for this sentence."""

    @classmethod
    def of(cls, trace: Trace) -> Record:
        """Return the record of a decoding trace, which has fields of the same names."""
        return cls(**{field.name: getattr(trace, field.name) for field in fields(cls)})

    @property
    def use(self) -> float:
        """Share of the tokens that the teacher wrote; 0 for an empty output."""
        return self.teacher_tokens / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, order=True)
class PointKey:
    """Identifies a decode: a rule (or an end), a seed and a budget."""

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


def cached_records(
    folder: Path, key: PointKey, made_from: Mapping[str, Any], make: Callable[[], Iterable[Record]]
) -> list[Record]:
    """Return the records of a decode that are kept, or make them now and keep them; see `wheels.runs.cached`."""
    lines = cached(folder / key.file_name, made_from, lambda: [asdict(record) for record in make()], LINES)
    return [_record(line) for line in lines]


def _record(line: dict[str, Any]) -> Record:
    """Return the record that a line holds."""
    return Record(**line | {name: tuple(line[name]) for name in ("pieces", "authors", "token_ids")})
