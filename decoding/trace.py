"""What a decode did, token by token, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from wheels.decoding.methods.method import Method
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.prices import Bill
from wheels.decoding.sequences import Sequence
from wheels.models.pair import Pair

STUDENT, TEACHER = "student", "teacher"


@dataclass(frozen=True)
class Trace:
    """One output."""

    text: str
    """The output, without special tokens."""
    token_ids: tuple[int, ...]
    """Its tokens, with the end-of-sequence token where it came."""
    spell: Callable[[list[int]], str] = field(repr=False, compare=False)
    """Tokens to text, special tokens skipped, spaces kept."""
    authors: tuple[str, ...]
    """Who wrote each token: `student` or `teacher`."""
    teacher_passes: int
    """Forward passes of the teacher that served this output."""
    teacher_positions: int
    """Positions of the output that the teacher read, the start token included."""
    prompt_positions: int
    """Positions of the source or prompt that the teacher read: 0 where it was never called."""
    budget: float | None
    """The budget asked for, a share; None where there was none."""
    mode: str
    """How the budget was kept: `average`, `online` or `strict`."""
    rule: str
    """The rule that decided."""
    seconds: float
    """Its share of the wall-clock time of the passes that it took part in."""
    finished: bool
    """Whether it ended by itself; False: cut at the length limit."""
    student_passes: int = 0
    """Forward passes of the student that served this output."""
    drafted: int = 0
    """Draft tokens that the teacher verified or discarded; 0 where nothing is verified."""
    accepted: int = 0
    """Draft tokens that the teacher accepted."""
    checked: int = 0
    """Draft tokens that were judged: the accepted ones, and the first that was rejected in each draft."""
    degraded: int = 0
    """Tokens that the student wrote because a remote teacher, called for them, gave no answer."""
    guessed: int = 0
    """Answers of a remote teacher that were what the student had written meanwhile: round trips that took no time."""
    bill: Bill | None = None
    """What a remote teacher was paid for it; None where the teacher is here."""
    own_tokens: tuple[int, int] | None = None
    """Tokens that a teacher with a tokenizer of its own read and wrote, in that; None where it has its student's."""
    error: str | None = None
    """Why nothing was written; None where something was."""
    runs_on: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What ran the student and the teacher, and on which weights, such as `onnx int8`."""

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """The text that each token adds; empty for a special token."""
        return pieces_of(self.spell, list(self.token_ids))

    @property
    def tokens(self) -> int:
        """Tokens generated."""
        return len(self.token_ids)

    @property
    def teacher_tokens(self) -> int:
        """Tokens that the teacher wrote."""
        return self.authors.count(TEACHER)

    @property
    def teacher_use(self) -> float:
        """The measured share of the tokens that the teacher wrote."""
        return self.teacher_tokens / self.tokens if self.tokens else 0.0

    @property
    def characters(self) -> int:
        """Characters of the output."""
        return sum(map(len, self.pieces))

    @property
    def teacher_characters(self) -> int:
        """Characters that the teacher wrote."""
        pairs = zip(self.pieces, self.authors, strict=True)
        return sum(len(piece) for piece, author in pairs if author == TEACHER)

    @property
    def wasted(self) -> int:
        """Draft tokens that were rejected, or came after one that was."""
        return self.drafted - self.accepted

    @property
    def acceptance(self) -> float | None:
        """The acceptance rate: accepted draft tokens over those judged; None where nothing was verified."""
        return self.accepted / self.checked if self.checked else None

    def to_json(self) -> dict[str, Any]:
        """Return the trace as one JSON object."""
        return {
            "text": self.text,
            "tokens": [
                {"text": piece, "id": token, "author": author}
                for piece, token, author in zip(self.pieces, self.token_ids, self.authors, strict=True)
            ],
            "teacher_use": self.teacher_use,
            "teacher_tokens": self.teacher_tokens,
            "teacher_passes": self.teacher_passes,
            "teacher_positions": self.teacher_positions,
            "prompt_positions": self.prompt_positions,
            "budget": self.budget,
            "mode": self.mode,
            "rule": self.rule,
            "seconds": self.seconds,
            "finished": self.finished,
            "student_passes": self.student_passes,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "acceptance": self.acceptance,
            "wasted": self.wasted,
            "degraded": self.degraded,
            "runs_on": dict(self.runs_on),
            **({} if self.bill is None else {"guessed": self.guessed, "bill": self.bill.to_json()}),
            **({} if self.own_tokens is None else self._by_text(self.own_tokens)),
            **({} if self.error is None else {"error": self.error}),
        }

    def _by_text(self, own_tokens: tuple[int, int]) -> dict[str, Any]:
        """Return what is counted where the teacher has a tokenizer of its own."""
        read, written = own_tokens
        counts = {"characters": self.characters, "teacher_characters": self.teacher_characters}
        return counts | {"teacher_own_tokens": {"read": read, "written": written}}


def trace_of(pair: Pair, sequence: Sequence, method: Method, runs_on: Mapping[str, str]) -> Trace:
    """Sum up one output.

    Args:
        pair: Whose tokens these are.
        sequence: What the engine kept of it.
        method: How it was written, and under which budget.
        runs_on: What ran both models.
    """
    return Trace(
        text=pair.decode(sequence.tokens),
        token_ids=tuple(sequence.tokens),
        spell=pair.spell,
        authors=tuple(TEACHER if teacher else STUDENT for teacher in sequence.by_teacher),
        teacher_passes=sequence.teacher_passes,
        teacher_positions=sequence.teacher_positions,
        prompt_positions=len(sequence.teacher_source or sequence.source) if sequence.teacher_passes else 0,
        budget=None if method.budget is None else method.budget_of(sequence.index),
        mode=method.mode,
        rule=method.name,
        seconds=sequence.seconds,
        finished=sequence.finished,
        student_passes=sequence.student_passes,
        drafted=sequence.drafted,
        accepted=sequence.accepted,
        checked=sequence.checked,
        degraded=sequence.degraded,
        guessed=sequence.guessed,
        bill=pair.bill(sequence) if isinstance(pair, RemotePair) else None,
        own_tokens=own_tokens_of(sequence) if pair.by_text else None,
        error=sequence.error,
        runs_on=runs_on,
    )


def own_tokens_of(sequence: Sequence) -> tuple[int, int]:
    """Return the tokens that a teacher read and wrote, by its own tokenizer."""
    return int(sequence.usage.prompt), int(sequence.usage.completion)


def teacher_use(traces: list[Trace]) -> float:
    """Compute the share of all tokens that the teacher wrote: `sum teacher tokens / sum tokens`."""
    tokens = sum(trace.tokens for trace in traces)
    return sum(trace.teacher_tokens for trace in traces) / tokens if tokens else 0.0


def pieces_of(decode: Callable[[list[int]], Any], token_ids: list[int]) -> tuple[str, ...]:
    """Return the text that each token adds to the text before it.

    A character that several tokens make up belongs to the last of them.

    Args:
        decode: Tokens to text, special tokens skipped, spaces kept.
        token_ids: The tokens.
    """
    pieces: list[str] = []
    shown = ""
    for end in range(1, len(token_ids) + 1):
        text = decode(token_ids[:end])
        if text.endswith("�") and end < len(token_ids):
            pieces.append("")
            continue
        pieces.append(text[_shared(shown, text) :])
        shown = text
    return tuple(pieces)


def _shared(first: str, second: str) -> int:
    """Return how many characters two texts begin with in common: all of the first, unless a token changed it."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(first), len(second)))
