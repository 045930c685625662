"""The ways of writing that are compared: models alone, deferral and verified deferral from each student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.benchmarks.core.decodes import Decode, decode_all, depends_on
from wheels.benchmarks.frontier.config import WaysConfig
from wheels.benchmarks.frontier.students import Student
from wheels.data.tasks import Row
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.method import Method, deferral, student_only, teacher_only, verified
from wheels.decoding.params import DecodeParams

ALONE = "alone"


@dataclass(frozen=True)
class Way:
    """One way of writing; of a rule with several trained heads, all of them."""

    student: str
    """Its name; empty for the teacher alone."""
    method: str = ALONE
    """`alone`, `deferral` or `verified`."""
    rule: str = ""
    """Who calls; empty for a model alone."""
    budget: float = 0.0
    """The teacher budget that is asked for."""
    seeds: tuple[int, ...] = (0,)

    @property
    def line(self) -> str:
        """The curve that it lies on, such as `medium, margin, verified`."""
        if not self.rule:
            return f"{self.student or 'teacher'} {ALONE}"
        return ", ".join([self.student, self.rule, *(["verified"] if self.method == "verified" else [])])

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.line}, budget {self.budget:g}" if self.rule else self.line

    @property
    def keys(self) -> list[PointKey]:
        """Its decodes, one a seed."""
        if not self.student:
            return [TEACHER_END]
        if not self.rule:
            return [PointKey(f"{STUDENT_END.rule}-{_word(self.student)}", 0, 0.0)]
        words = "-".join(map(_word, (self.student, self.rule, self.method)))
        return [PointKey(words, seed, self.budget) for seed in self.seeds]


TEACHER_ALONE = Way("", budget=1.0)


def _word(text: str) -> str:
    """Return a name as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in text)


def ways_of(config: WaysConfig, students: Sequence[Student]) -> list[Way]:
    """Return every way: the models alone, the teacher last; then student by student, rule by rule."""
    alone = [*(Way(student.name) for student in students), TEACHER_ALONE]
    return alone + [
        Way(student.name, method, rule, budget, tuple(seeds))
        for student in students
        for rule, seeds in student.seeds.items()
        for method in config.methods
        for budget in config.budgets
    ]


def method_of(config: WaysConfig, student: Student, way: Way, seed: int) -> Method:
    """Return the method of a way, its rule under the threshold of its budget."""
    if not way.rule:
        return student_only() if way.student else teacher_only()
    rule = calibrated(student.artefact, way.rule, way.budget, seed)
    if way.method == "verified":
        return verified(rule, way.budget, tolerance=config.tolerance)
    return deferral(rule, way.budget)


def writer_of(students: Sequence[Student], way: Way) -> Student:
    """Return the student of a way; for the teacher alone the first, whose pair has it too."""
    return next((student for student in students if student.name == way.student), students[0])


def write(
    config: WaysConfig, students: Sequence[Student], ways: Sequence[Way], rows: Sequence[Row], digest: str, folder: Path
) -> dict[PointKey, list[Record]]:
    """Return the records of every way on `rows`, those kept in `folder` as they are."""
    params = DecodeParams(max_new_tokens=config.max_new_tokens)
    outputs: dict[PointKey, list[Record]] = {}
    for student in students:
        decodes: dict[PointKey, Decode] = {}
        for way in (way for way in ways if writer_of(students, way) is student):
            for key in way.keys:
                method = method_of(config, student, way, key.seed)
                facts = depends_on(config, student.artefact, method.rule, key.seed, digest, len(rows))
                facts |= {"model": student.digest, "method": way.method}
                facts |= {"prompt": student.artefact.pair.prompt.noted, "budget": way.budget}
                facts |= {"tolerance": config.tolerance} if way.method == "verified" else {}
                decodes[key] = Decode(way.name, method, params, facts)
        pair, sources = student.artefact.pair, [row.source for row in rows]
        outputs |= decode_all(pair, sources, decodes, folder, config.batch_size)
    return outputs
