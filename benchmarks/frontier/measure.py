"""Measure students and their teacher on the rows that a way is chosen on, and on those that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.decodes import scored_task
from wheels.benchmarks.curve.decodes import refuse_scored, rows_digest
from wheels.benchmarks.curve.resampled import Resampled
from wheels.benchmarks.frontier.config import WaysConfig
from wheels.benchmarks.frontier.front import Front
from wheels.benchmarks.frontier.students import Student, calibrate, load_students, split_rows
from wheels.benchmarks.frontier.timing import Rounds, of_ways, time_ways
from wheels.benchmarks.frontier.ways import Way, ways_of, write
from wheels.config.parsing import to_dict
from wheels.data.tasks import Row, Task
from wheels.metrics import sentence_statistics
from wheels.threads import set_threads

INCIDENTAL = ("output", "threads", "batch_size", "students", "teacher", "rounds", "time_batches", "recipe")
"""Settings that change no figure, or are known by the digest of what they name; more may be timed."""


@dataclass
class Bench:
    """What is compared, and where its parts are kept."""

    config: WaysConfig
    folder: Path
    task: Task
    students: list[Student]
    calibration_rows: list[Row]
    """To calibrate on; empty where every student has its thresholds."""
    choice_rows: list[Row]
    """To choose on."""
    ways: list[Way] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader must know."""

    @classmethod
    def open(cls, config: WaysConfig, output: str) -> Bench:
        """Load task and models.

        Raises:
            WheelsError: for what the user can mend: data, models, rules.
        """
        task = scored_task(config)
        rows = task.rows(config.choose_split)
        students = load_students(config)
        set_threads(config.threads, *(student.artefact.pair for student in students))
        bench = cls(
            config, Path(output), task, students, *split_rows(students, config.budgets, rows[: config.choose_limit])
        )
        bench.ways = ways_of(config, students)
        bench.notes = _notes(config, students, rows_digest(rows))
        return bench

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the figures depend on."""
        heads = {
            f"{s.name} {r}": [s.artefact.head_digest(r, seed) for seed in s.seeds[r]]
            for s in self.students
            for r in s.seeds
        }
        return to_dict(self.config, INCIDENTAL) | {
            "models": {student.name: student.digest for student in self.students},
            "heads": heads,
            "choice_digest": rows_digest(self.choice_rows),
        }

    def refuse(self, rows: Sequence[Row]) -> None:
        """Refuse to score rows of a split that anything was chosen or calibrated on."""
        scored = rows_digest(rows)
        refuse_scored(rows_digest(self.task.rows(self.config.choose_split)), scored, what="way would be chosen")
        for student in self.students:
            refuse_scored(student.artefact.calibration.data_digest, scored)

    def calibrate(self) -> None:
        """Give every student a threshold for each of its rules and budgets."""
        for student in self.students:
            calibrate(self.config, student, self.calibration_rows, self.folder / "thresholds")

    def front(self, rows: Sequence[Row], place: str) -> Front:
        """Write all rows in every way, and return quality and costs, without seconds."""
        outputs = write(self.config, self.students, self.ways, rows, rows_digest(rows), self.folder / place)
        references, statistics = (
            [row.scored_against for row in rows],
            partial(sentence_statistics, sources=[r.source for r in rows]),
        )
        sample = Resampled(outputs, references, self.task.metrics, statistics, self.config.resamples, 0)
        return Front({s.name: s.size / s.teacher_size for s in self.students}, self.ways, sample, {})

    def time(self, front: Front, ways: Sequence[Way]) -> dict[int, Rounds]:
        """Time some ways on the rows of the choice, and tell `front` of it."""
        sources = [row.source for row in self.choice_rows]
        rounds = time_ways(self.config, self.students, ways, sources, self.folder / "seconds")
        front.seconds = dict(of_ways(rounds, ways))
        return rounds


def _notes(config: WaysConfig, students: Sequence[Student], digest: str) -> list[str]:
    """Return what a reader must know of rules and thresholds."""
    notes = [
        f"{student.name} has no trained head for {rule}"
        for student in students
        for rule in config.rules
        if rule not in student.seeds
    ]
    own = [student.name for student in students if student.artefact.calibration.data_digest == digest]
    if own:
        notes.append(f"thresholds of {', '.join(own)} come from the rows of the choice: its uses are near the budgets")
    return notes
