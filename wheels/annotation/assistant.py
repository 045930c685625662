"""The teaching assistant: grades how far an answer can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from wheels.annotation.answer import CUT, Answer, without_thinking
from wheels.annotation.confidence import ConfidenceThresholds
from wheels.annotation.grades import UNREADABLE, parse_grade
from wheels.annotation.ledger import Ledger
from wheels.annotation.purchase import Advance, Responder


class Assistant(Protocol):
    """Grades answers."""

    def grade(self, sources: Sequence[str], answers: Sequence[str], advance: Advance) -> list[int]:
        """Return the grade of each answer, 0 (very confident) to 3 (wrong answer)."""
        ...


class LikelihoodAssistant:
    """An assistant too small to follow a prompt: it grades by the answer's likelihood against calibrated thresholds."""

    def __init__(
        self,
        log_likelihoods: Callable[[Sequence[str], Sequence[str]], list[float]],
        cuts: ConfidenceThresholds,
        batch_size: int,
    ) -> None:
        """Grade by `log_likelihoods` (nats per token) and `cuts`, `batch_size` rows at a time."""
        self.log_likelihoods = log_likelihoods
        self.cuts = cuts
        self.batch_size = batch_size

    def grade(self, sources: Sequence[str], answers: Sequence[str], advance: Advance) -> list[int]:
        """Return the grade of each answer; an empty one is wrong."""
        grades: list[int] = []
        for start in range(0, len(sources), self.batch_size):
            here = slice(start, start + self.batch_size)
            values = self.log_likelihoods(sources[here], answers[here])
            grades += [
                self.cuts.grade(value) if answer.strip() else 3
                for value, answer in zip(values, answers[here], strict=True)
            ]
            advance(len(values))
        return grades


class PromptAssistant:
    """An assistant that is prompted. Each reply is kept in a ledger: it may have been paid for."""

    def __init__(self, responder: Responder, prompt: str, ledger: Ledger) -> None:
        """Ask `responder` with `prompt`, which has `{source}` and `{answer}` in it."""
        self.responder = responder
        self.prompt = prompt
        self.ledger = ledger

    def grade(self, sources: Sequence[str], answers: Sequence[str], advance: Advance) -> list[int]:
        """Return the grade that each reply names; without one, or if truncated or refused, it is not confident."""
        prompts = [
            self.prompt.format(source=source, answer=answer) for source, answer in zip(sources, answers, strict=True)
        ]
        return [_grade_of(reply) for reply in self.responder.respond(prompts, self.ledger, advance)]


def _grade_of(reply: Answer) -> int:
    """Return the grade that a reply names; of a truncated reply, only a first line that is complete."""
    reply = without_thinking(reply)
    text = reply.text if reply.flaw is None else ""
    if reply.flaw == CUT and "\n" in reply.text:
        text = reply.text.split("\n")[0]
    grade = parse_grade(text)
    return UNREADABLE if grade is None else grade
