"""Jobs: requests on their way through the engine, and the deltas that come back.

    loop    Job(...) -> worker.submit -> async for deltas in job.deltas()
    engine  Choice.delta(...) after each step -> job.put, in the loop

A job is made and read in the event loop; the engine's thread alone touches its sequences and spellers.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.sequences import Sequence as TokenSequence
from wheels.decoding.sequences import TokenLogprobs
from wheels.decoding.serve.cost import NOTHING, Cost
from wheels.decoding.serve.metrics import Metrics
from wheels.decoding.serve.rereading import Alternative
from wheels.decoding.serve.spelling import OuterSpaces, Speller, StopTexts
from wheels.decoding.trace import STUDENT, TEACHER


@dataclass(frozen=True)
class Piece:
    """One token of a choice."""

    token: int
    text: str
    """What it adds to the text; empty for a special token, or where a character is not whole yet."""
    by_teacher: bool
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class Told:
    """What the model that did not write a token would have written, with its text."""

    text: str
    by_teacher: bool
    alternative: Alternative


@dataclass(frozen=True)
class Delta:
    """What a step added to one choice."""

    choice: int
    text: str
    tokens: int
    """Tokens that it adds."""
    by_teacher: int
    """Those of them that the teacher wrote."""
    pieces: tuple[Piece, ...] = ()
    """These tokens one by one, where the request asks for details."""
    finish: str | None = None
    """`stop` or `length` where the choice has ended."""
    stop_reason: str | None = None
    """The stop text that ended it."""
    cost: Cost = NOTHING
    """Of a choice that has ended."""
    alternatives: tuple[Told, ...] = ()
    """Of a choice that has ended: what the other model would have written in place of each token, if that is asked."""


@dataclass(eq=False)
class Choice:
    """One text of a job, as the engine's thread has it."""

    job: Job
    sequence: TokenSequence
    speller: Speller
    stops: StopTexts
    spaces: OuterSpaces | None = None
    """Leaves out outer spaces; None: the text goes on where the prompt ended, and they stay."""
    first: int = 0
    """Tokens that stood before the request."""
    last: int | None = None
    """Tokens after which it is cut, before its own limit."""
    sent: int = 0
    """Tokens that were passed on, or stood before."""
    told: float = -math.inf
    """When the last of them were."""

    def delta(self, final: int, *, ended: bool) -> Delta | None:
        """Return what is new among the first `final` tokens; None where nothing is shown yet.

        Tokens that come faster than the job's interval are told of together. A stop text ends the choice, and so does
        its `last` token: `finish` is then set before the engine ends it.
        """
        if self.last is not None and final >= self.last:
            final, ended = self.last, True
        now = time.perf_counter()
        if not ended and (final == self.sent or not self.job.eager or now < self.told + self.job.interval):
            return None
        sequence, first, self.told = self.sequence, self.sent, now
        text, pieces = self._spell(final)
        if ended and not self.stops.found:
            text += self.stops.add(self.speller.end()) + self.stops.end()
        text = text if self.spaces is None else self.spaces.add(text)
        whole = sequence.finished and final == len(sequence.tokens)
        finish = "stop" if self.stops.found else ("stop" if whole else "length") if ended else None
        return Delta(
            sequence.index,
            text,
            tokens=self.sent - first,
            by_teacher=sum(sequence.by_teacher[first : self.sent]),
            pieces=tuple(pieces),
            finish=finish,
            stop_reason=self.stops.reason,
            cost=Cost.of(sequence, self.sent, self.first) if finish else NOTHING,
        )

    def _spell(self, final: int) -> tuple[str, list[Piece]]:
        """Return the text of the tokens up to `final`, and these one by one where details are asked for."""
        sequence, first, pieces = self.sequence, self.sent, list[Piece]()
        if not self.job.details and not self.job.stops:
            self.sent = final
            return self.speller.add(sequence.tokens[first:final]), pieces
        text = ""
        for place in range(first, final):
            self.sent = place + 1
            piece = self.speller.add([sequence.tokens[place]])
            text += self.stops.add(piece)
            if self.job.details:
                kept = place - self.first
                known = sequence.logprobs[kept] if kept < len(sequence.logprobs) else None
                pieces.append(Piece(sequence.tokens[place], piece, sequence.by_teacher[place], known))
            if self.stops.found:
                break
        return text, pieces


@dataclass(eq=False)
class Job:
    """A request on its way: texts of one method, budget and sampling.

    Args:
        how: The method, its budget and the sampling, by which engines are told apart.
        sequences: The texts, in the order of the choices.
        prompt_tokens: Tokens of all prompts, each counted once.
        eager: Whether tokens are passed on as they come: for a stream, or to find a stop text.
        details: Whether each token is passed on by itself, with its author and its log-probabilities.
        metrics: Where its tokens are counted.
        stops: Texts that end a choice.
        trimmed: Whether outer spaces are left out, for a text that does not go on where the prompt ended.
        interval: Seconds between two parts of a choice at least.
        lasts: Of each choice the tokens after which it is cut; None: only its own limit cuts it.
        rereads: Whether a choice ends with what the other model would have written in place of each token.
    """

    how: GenerateConfig
    sequences: Sequence[TokenSequence]
    prompt_tokens: int
    eager: bool
    details: bool
    metrics: Metrics
    stops: Sequence[str] = ()
    trimmed: bool = False
    interval: float = 0.0
    lasts: Sequence[int | None] = ()
    rereads: bool = False
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    events: asyncio.Queue[Delta | Exception] = field(default_factory=asyncio.Queue)
    begun: float = field(default_factory=time.perf_counter)
    last: dict[int, float] = field(default_factory=dict)
    """When the last tokens of each choice came."""
    tokens: int = 0
    """Tokens that came back, of all choices."""
    teacher_tokens: int = 0
    cost: Cost = NOTHING
    """Of all choices that have ended."""
    left: int = field(init=False)
    """Choices that have not ended."""

    def __post_init__(self) -> None:
        """Count the choices."""
        self.left = len(self.sequences)

    def put(self, event: Delta | Exception) -> None:
        """Take in what the engine has made; in the event loop."""
        if isinstance(event, Delta):
            self.tokens, self.teacher_tokens = self.tokens + event.tokens, self.teacher_tokens + event.by_teacher
            self.left, self.cost = self.left - (event.finish is not None), self.cost + event.cost
            self._count(event)
        else:
            self.left = 0
            self.metrics.count("failures")
        self.events.put_nowait(event)

    def _count(self, delta: Delta) -> None:
        """Count the tokens of a delta, and how long they took; of texts that come at once there is no first token."""
        metrics, now = self.metrics, time.perf_counter()
        metrics.count("tokens", delta.by_teacher, author=TEACHER)
        metrics.count("tokens", delta.tokens - delta.by_teacher, author=STUDENT)
        if self.eager and delta.tokens:
            before = self.last.get(delta.choice)
            if before is None:
                metrics.histograms["first_token_seconds"].observe(now - self.begun)
            else:
                metrics.histograms["between_tokens_seconds"].observe((now - before) / delta.tokens, delta.tokens)
            self.last[delta.choice] = now
        if delta.finish is not None:
            metrics.count("passes", delta.cost.student_passes, model=STUDENT)
            metrics.count("passes", delta.cost.teacher_passes, model=TEACHER)
        if not self.left:
            metrics.histograms["request_seconds"].observe(now - self.begun)

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """Yield what has come since the last time, until every choice has ended.

        Raises:
            Exception: what ended the job in the engine.
        """
        ended = 0
        while ended < len(self.sequences):
            events = [await self.events.get()]
            while not self.events.empty():
                events.append(self.events.get_nowait())
            deltas = [event for event in events if isinstance(event, Delta)]
            if deltas:
                yield deltas
            for event in events:
                if isinstance(event, Exception):
                    raise event
            ended += sum(delta.finish is not None for delta in deltas)
