"""The summary of `wheels annotate`: before a run, what it would spend; after it, what was bought and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wheels.annotation.answer import CUT, REFUSED, THINKING
from wheels.annotation.config import AnnotateConfig
from wheels.annotation.grades import GRADES
from wheels.annotation.ledger import Account
from wheels.annotation.pool import Annotation, stages_of
from wheels.endpoints.address import is_address
from wheels.output.tables import Table

UNGRADED = "not graded"


def summarise(
    annotations: Sequence[Annotation], pool: int, account: Account, grades_refused: int = 0
) -> dict[str, Any]:
    """Return the counts of a run for JSON: by stage, by grade and by flaw."""
    stages = {}
    for name in dict.fromkeys(one.stage for one in annotations):
        here = [one for one in annotations if one.stage == name]
        kept = [one for one in here if one.accepted]
        stages[name] = {
            "selected": len(here),
            "annotated": sum(bool(one.target) for one in here),
            "accepted": len(kept),
            "rejected": len(here) - len(kept),
        }
    return {
        "pool": pool,
        "budget": account.budget,
        "spent": account.spent,
        "failed_requests": account.released,
        "unusable": dict(Counter(one.flaw.split(":")[0] for one in annotations if one.flaw is not None)),
        "thinking_taken_out": sum(one.thought for one in annotations),
        "grades_refused": grades_refused,
        "stages": stages,
        "grades_of_annotations": _by_grade([one.grade for one in annotations]),
        "grades_of_student_answers": _by_grade([one.student_grade for one in annotations]),
        "accepted": sum(one.accepted for one in annotations),
    }


def _by_grade(grades: Sequence[int | None]) -> dict[str, int]:
    """Return how many have each grade."""
    counts = {name: grades.count(place) for place, name in enumerate(GRADES)}
    return counts | {UNGRADED: grades.count(None)}


def as_text(summary: Mapping[str, Any]) -> str:
    """Return a summary as tables for a terminal."""
    counted = ("selected", "annotated", "accepted", "rejected")
    stages = [[name, *(counts[what] for what in counted)] for name, counts in summary["stages"].items()]
    if len(stages) > 1:
        stages.append(["both", *(sum(counts[what] for counts in summary["stages"].values()) for what in counted)])
    of_answers = summary["grades_of_student_answers"]
    grades = [[name, of_answers[name], count] for name, count in summary["grades_of_annotations"].items()]
    tables = (
        Table(["stage", *counted], stages).text(),
        Table(["grade", "of the student's answers", "of the annotations"], grades).text(),
    )
    head = f"{summary['spent']} of {summary['budget']} annotations spent on {summary['pool']} rows"
    if summary["failed_requests"]:
        head += f"; {summary['failed_requests']} requests failed, and freed their units"
    return "\n".join([head, *_notes(summary), "", "\n\n".join(tables)])


def _notes(summary: Mapping[str, Any]) -> list[str]:
    """Return one line for each reason why answers are not labels."""
    lines = []
    unusable = dict(summary["unusable"])
    refused = unusable.pop(REFUSED, 0)
    if refused:
        lines.append(f"rows refused by the server, which cost nothing: {refused}; rejected.jsonl names them")
    if unusable:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(unusable.items()))
        lines.append(f"answers that are no labels, though paid for: {kinds}; rejected.jsonl names them")
    if CUT in unusable or THINKING in unusable:
        lines.append("a higher --max-new-tokens, in another --output, leaves room for whole answers")
    if summary["thinking_taken_out"]:
        lines.append(f"answers with a thinking part, which was taken out: {summary['thinking_taken_out']}")
    if summary["grades_refused"]:
        lines.append(f"grades refused by the server, which count as not confident: {summary['grades_refused']}")
    return lines


def preview(config: AnnotateConfig, pool: Sequence[str], prompt: Callable[[str], str], account: Account | None) -> str:
    """Return what a run would spend, and its first prompt."""
    stages = stages_of(config, account.first_budget if account is not None and account.bought else None)
    budget = min(config.annotation_budget, len(pool))
    spent = account.spent if account is not None else 0
    lines = [f"{len(pool)} rows; at most {budget} annotations, {spent} spent before, {max(budget - spent, 0)} to come"]
    lines += [f"  {stage.name}: {min(stage.budget, len(pool))} by selection {stage.select!r}" for stage in stages]
    lines.append(f"teacher: {_where(config, 'teacher')}")
    if config.assistant is not None:
        lines.append(f"assistant: {_where(config, 'assistant')}, graded by {config.how_graded}")
        if is_address(config.assistant):
            answers = len(pool) - sum(stage.budget for stage in stages[:-1]) if config.select == "assistant" else 0
            labels = budget if config.filter else 0
            lines.append(
                f"  at most {answers + labels} grades: {answers} of the student's answers, {labels} of annotations"
            )
    letters = sum(len(prompt(source)) for source in pool) / max(1, len(pool))
    lines.append(f"a prompt of the teacher has {letters:.0f} characters on average; the first:")
    lines += [f"  | {line}" for line in prompt(pool[0]).splitlines()]
    return "\n".join([*lines, "nothing was sent"])


def _where(config: AnnotateConfig, role: str) -> str:
    """Name a model."""
    place, name = getattr(config, role), getattr(config, f"{role}_model")
    return f"{name} at {place}, {config.workers} requests at once" if name else str(place)
