"""Students of one teacher, each with the rules that it can be asked for, and a threshold for every budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wheels import __version__
from wheels.benchmarks.frontier.config import WaysConfig
from wheels.config.fields import loading_of
from wheels.data.tasks import Row, digest
from wheels.decoding.commands.calibrate import points_of
from wheels.decoding.methods.calibrated import rule_of, threshold_of
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import find_rule
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.policy.calibration import NotCalibrated, Point
from wheels.runs import cached


@dataclass
class Student:
    """A student and its teacher."""

    name: str
    """Short, and its own."""
    folder: str
    """Where it was read."""
    artefact: Artefact
    """Both models, heads and thresholds; all students share one teacher in memory."""
    digest: str
    """Of both models."""
    seeds: dict[str, list[int]]
    """The rules that it is decoded with, and the trained heads of each."""
    calibrated_here: bool = False
    """Whether some of its thresholds were measured here, and are in no folder of a model."""

    @property
    def size(self) -> int:
        """The number of its weights."""
        return sum(weight.numel() for weight in self.artefact.pair.student.parameters())

    @property
    def teacher_size(self) -> int:
        """The number of the teacher's weights."""
        return sum(weight.numel() for weight in self.artefact.pair.teacher.parameters())

    def lacking(self, budgets: Sequence[float]) -> list[tuple[Rule, int]]:
        """Return the rules, seed by seed, that have no threshold for some budget."""
        return [
            (found, seed)
            for rule, seeds in self.seeds.items()
            for seed in seeds
            if not self._knows(found := rule_of(self.artefact, rule, seed), seed, budgets)
        ]

    def _knows(self, rule: Rule, seed: int, budgets: Sequence[float]) -> bool:
        try:
            for budget in budgets:
                threshold_of(self.artefact.calibration, rule, budget, seed, "average")
        except NotCalibrated:
            return False
        return True


def load_students(config: WaysConfig) -> list[Student]:
    """Load all students with their one teacher.

    Raises:
        WheelsError: for a model that is missing or damaged, two students of one name, or no rule for any.
    """
    students: list[Student] = []
    for folder in config.students:
        student = _load(config, folder)
        if students:
            student.artefact.pair.teacher = students[0].artefact.pair.teacher
        students.append(student)
    names = [student.name for student in students]
    for name in names:
        if names.count(name) > 1:
            raise WheelsError(f"two of the students {', '.join(config.students)} are named {name!r}; rename a folder")
    if not any(student.seeds for student in students):
        raise WheelsError(
            f"no student has a trained head for {', '.join(config.rules)}; run `wheels train`, or give --rules margin"
        )
    return students


def _load(config: WaysConfig, folder: str) -> Student:
    """Load a student: trained to call where its folder says so, else a plain model."""
    artefact = Artefact.of_student(folder, config.teacher, **loading_of(config))
    if config.prompt is not None:
        artefact.pair.read_by(config.prompt)
    seeds = {rule: heads for rule in config.rules if (heads := _seeds(artefact, find_rule(rule), config.seeds))}
    return Student(artefact.student_name, folder, artefact, artefact.digest, seeds)


def _seeds(artefact: Artefact, rule: Rule, seeds: int) -> list[int]:
    """Return the trained heads of a rule; the seed 0 for a rule without; none where it was not trained."""
    return [0] if rule.head is None else list(range(min(seeds, len(artefact.heads.get(rule.name, [])))))


def split_rows(students: Sequence[Student], budgets: Sequence[float], rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows to calibrate on, every fourth where a threshold lacks, and the others, to choose on."""
    if any(student.lacking(budgets) for student in students):
        return rows[::4], [row for place, row in enumerate(rows) if place % 4]
    return [], rows


def calibrate(config: WaysConfig, student: Student, rows: Sequence[Row], folder: Path) -> None:
    """Give a student the thresholds that it lacks, measured on `rows` and kept in `folder`; its own stay."""
    lacking = student.lacking(config.budgets)
    if not lacking:
        return
    made_from = {
        "model": student.digest,
        "rules": [
            [rule.name, seed, rule.code, student.artefact.head_digest(rule.name, seed)] for rule, seed in lacking
        ],
        "budgets": config.budgets,
        "rows": digest({"": list(rows)}),
        "max_new_tokens": config.max_new_tokens,
        "dtype": config.dtype,
        "wheels": __version__,
    }
    sources, pair = [row.source for row in rows], student.artefact.pair

    def measure() -> list[dict[str, Any]]:
        settings: dict[str, Any] = {"batch_size": config.batch_size, "max_new_tokens": config.max_new_tokens}
        return [asdict(point) for point in points_of(pair, sources, lacking, config.budgets, **settings)]

    kept = cached(folder / f"{student.name.replace('/', '-')}.json", made_from, measure)
    student.calibrated_here = True
    student.artefact.calibration.points += [Point(**point) for point in kept]
