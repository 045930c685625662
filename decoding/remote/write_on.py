"""The student writes on while an answer is under way, and is rolled back to where the teacher differs.

First it guesses the tokens that the call buys, then it goes on as if the teacher had written them, up to where the rule
calls again. Where the answer is what it guessed all of that stands, and the round trip cost no time; else the text is
what it would have been without. So texts do not depend on it, nor on when an answer comes.

Tokens of online mode depend on the order of all decisions. There only a text that is alone writes on, and the
threshold counts its guess as the teacher's until the answer is there.
"""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

import torch

from wheels.decoding.methods.choices import PACED
from wheels.decoding.methods.method import Method
from wheels.decoding.params import DecodeParams
from wheels.decoding.passes import Passes
from wheels.decoding.remote.passes import RemotePasses
from wheels.decoding.remote.protocol import Answer
from wheels.decoding.sequences import Sequence as Text


@dataclass(frozen=True)
class Call:
    """A call of one text whose answer is under way."""

    text: Text
    start: int
    """Tokens of the text when it called."""
    most: int
    """Tokens that the call may buy."""
    answers: Future[list[Answer]]
    place: int
    """Where its own answer is among them."""

    @property
    def guessed(self) -> int:
        """Tokens of the call that the student has guessed."""
        return min(self.most, len(self.text.tokens) - self.start)

    @property
    def is_guessing(self) -> bool:
        """Whether the next token is a guess of the teacher's."""
        return self.guessed < self.most


class WriteOn:
    """The calls that are under way, by slot; there are none where the student is to wait.

    Args:
        passes: Both models over the texts.
        method: How they write.
        params: And with what: a caller's own `stopping` is shown no text that may be taken back.
        eos: The end tokens.
        alone: Whether no decision depends on that of another text in flight.
    """

    def __init__(
        self, passes: Passes, method: Method, params: DecodeParams, eos: Container[int], *, alone: bool
    ) -> None:
        may = alone and params.stopping is None and method.draft is None
        self.passes = passes if isinstance(passes, RemotePasses) and passes.remote.write_on and may else None
        """None: the student waits."""
        self.eos = eos
        self.guesses_only = method.mode == PACED
        """Whether the student stops after its guess: what an answer costs decides what comes next."""
        self.calls: dict[int, Call] = {}
        self.first: dict[int, int] = {}
        """What the student would have written in slots that call, or wait to: the first token of its guess."""
        self.again: set[int] = set()
        """Slots that call once more, if their guess is right."""

    def keep(self, slots: list[int], slots_R: torch.Tensor, logits_RV: torch.Tensor) -> None:
        """Take note of what the student would have written where it calls."""
        if self.passes is not None:
            self.first.update(zip(slots, self.passes.student_tokens(slots_R, logits_RV).tolist(), strict=True))

    def send(self, slots: list[int], slots_R: torch.Tensor) -> list[int]:
        """Ask for what comes after some texts; return those in which the student writes on."""
        assert self.passes is not None, "nobody waits for an answer"
        answers, most = self.passes.send(slots, slots_R)
        for place, slot in enumerate(slots):
            text = self.passes.texts.sequence(slot)
            self.calls[slot] = Call(text, len(text.tokens), most[place], answers, place)
        guessing = [slot for slot in slots if slot in self.first]
        for slot in guessing:
            self.passes.texts.append_span(slot, [self.first.pop(slot)], by_teacher=True)
        return [slot for slot in guessing if self.goes_on(slot)]

    def guessing(self, slots: list[int]) -> list[bool]:
        """Tell which slots guess their next token."""
        return [slot in self.calls and self.calls[slot].is_guessing for slot in slots]

    def goes_on(self, slot: int) -> bool:
        """Tell whether the student writes on after what it has written while an answer is under way."""
        call = self.calls[slot]
        return not call.text.is_over(self.eos) and (call.is_guessing or not self.guesses_only)

    def standing(self, text: Text) -> int:
        """Return how many tokens of a text stand, whatever is answered."""
        return next((call.start for call in self.calls.values() if call.text is text), len(text.tokens))

    def drop(self, slot: int) -> None:
        """Forget a call; its answer is paid for all the same."""
        self.calls.pop(slot, None)
        self.first.pop(slot, None)
        self.again.discard(slot)

    def collect(self, *, until_one: bool) -> list[tuple[int, bool]]:
        """Put answers that have come into their texts; return these, and whether all that the student wrote stands.

        Args:
            until_one: Wait until there is one.
        """
        if until_one and self.calls:
            start = time.perf_counter()
            wait({call.answers for call in self.calls.values()}, return_when=FIRST_COMPLETED)
            for call in self.calls.values():
                call.text.seconds += (time.perf_counter() - start) / len(self.calls)
        if self.passes is None:
            return []
        come = {slot: call for slot, call in self.calls.items() if call.answers.done()}
        for slot in come:
            del self.calls[slot]
        return [
            (slot, self.passes.receive(slot, call.answers.result()[call.place], call.start, call.most))
            for slot, call in come.items()
        ]


def split(slots: Sequence[int], chosen: Sequence[bool]) -> tuple[list[int], list[int]]:
    """Return the slots that are chosen, and the others."""
    pairs = list(zip(slots, chosen, strict=True))
    return [slot for slot, own in pairs if own], [slot for slot, own in pairs if not own]
