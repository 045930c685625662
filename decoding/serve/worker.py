"""The thread that owns the models: it steps the engines, and passes on what they write.

Requests of one method, budget and sampling share an engine, that is a batch. Others get one of their own, up to a
number; the engines take turns, a step each. Beyond that number jobs wait, the oldest first, until an engine is idle
and makes room. Commands come in between two steps: so a job that is cancelled is out of the next one.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from wheels.decoding.commands.generate import method_of
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.engine import Engine
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.serve.config import ServeConfig
from wheels.decoding.serve.cost import NOTHING
from wheels.decoding.serve.jobs import Choice, Delta, Job, Told
from wheels.decoding.serve.rereading import Alternative, Rereader
from wheels.decoding.serve.scoring import ScoreJob, score_next
from wheels.decoding.serve.spelling import OuterSpaces, Speller, StopTexts
from wheels.models.artefact import Artefact

log = logging.getLogger("wheels")

ROWS = 8
"""Texts of a pass that scores at most: the others' tokens wait for it."""
CONTEXT = 16
"""Tokens before another by which its spelling is found."""


@dataclass(eq=False)
class Reread:
    """A choice that has ended, and is read once more."""

    choice: Choice
    end: Delta
    """Tells that it has ended, once it is read."""
    found: Iterator[list[Alternative] | None]


class Lane:
    """An engine, and the choices that it writes.

    Args:
        artefact: Models, heads and thresholds.
        how: Method, budget and sampling of all its texts.
        config: The server's limits.
    """

    def __init__(self, artefact: Artefact, how: GenerateConfig, config: ServeConfig) -> None:
        self.decode = artefact.pair.spell
        sampling = Sampling(how.temperature, how.top_k, how.top_p)
        params = DecodeParams(max_new_tokens=config.longest_output, sampling=sampling)
        method = method_of(how, artefact)
        self.engine = Engine(artefact.pair, [], method, params, batch_size=config.batch_size, more=True)
        self.rereader = functools.cache(lambda: Rereader(artefact.pair, params))
        self.rereads = deque[Reread]()
        self.choices: dict[int, Choice] = {}
        """By the identity of their sequences: of all texts that wait, are being written or read once more."""

    @property
    def busy(self) -> bool:
        """Whether a text waits, is being written or read once more."""
        return self.engine.busy or bool(self.rereads)

    def submit(self, job: Job) -> None:
        """Let a job's texts wait for slots."""
        for sequence in job.sequences:
            first, last = len(sequence.tokens), job.lasts[sequence.index] if job.lasts else None
            spaces = OuterSpaces() if job.trimmed and not first else None
            speller = Speller(self.decode)
            speller.add(sequence.tokens)  # what stood before says how the first new token is spelt
            choice = Choice(job, sequence, speller, StopTexts(job.stops), spaces, first, last, sent=first)
            self.choices[id(sequence)] = choice
            self.engine.submit(sequence)

    def cancel(self, job: Job) -> None:
        """Drop a job's texts."""
        for sequence in job.sequences:
            if self.choices.pop(id(sequence), None) is not None:
                self.engine.cancel(sequence)
        self.rereads = deque(each for each in self.rereads if each.choice.job is not job)

    def step(self) -> list[tuple[Job, Delta]]:
        """Run one pass, and one over a text that is read once more; return what they have added."""
        return self._write() + self._reread()

    def _write(self) -> list[tuple[Job, Delta]]:
        """Run one pass of the engine."""
        ended = self.engine.step() if self.engine.busy else []
        found = [(sequence, True) for sequence in ended]
        found += [(each, False) for each in self.engine.texts.sequences if each is not None]
        return [
            (choice.job, delta)
            for sequence, over in found
            if (choice := self.choices[id(sequence)]) and (delta := self._delta(choice, over)) is not None
        ]

    def _delta(self, choice: Choice, over: bool) -> Delta | None:
        """Return what is new of one choice; one that ends leaves."""
        sequence = choice.sequence
        delta = choice.delta(len(sequence.tokens) if over else self.engine.final(sequence), ended=over)
        if delta is None or delta.finish is None:
            return delta
        if not over:
            self.engine.cancel(sequence)
        if choice.job.rereads:  # all of its text is passed on first
            self.rereads.append(Reread(choice, delta, self.rereader().read(sequence, choice.first, choice.sent)))
            return replace(delta, finish=None, stop_reason=None, cost=NOTHING)
        del self.choices[id(sequence)]
        return delta

    def _reread(self) -> list[tuple[Job, Delta]]:
        """Run one pass over the text that has waited longest to be read once more; return its end."""
        if not self.rereads:
            return []
        first = self.rereads[0]
        found = next(first.found)
        if found is None:
            return []
        self.rereads.popleft()
        sequence = first.choice.sequence
        del self.choices[id(sequence)]
        before = range(first.choice.first, first.choice.sent)
        told = [
            Told(self._spelt(sequence.tokens[:place], each.token), not sequence.by_teacher[place], each)
            for place, each in zip(before, found, strict=True)
        ]
        return [
            (first.choice.job, replace(first.end, text="", tokens=0, by_teacher=0, pieces=(), alternatives=(*told,)))
        ]

    def _spelt(self, before: list[int], token: int) -> str:
        """Return what a token adds after others."""
        speller = Speller(self.decode)
        speller.add(before[-CONTEXT:])
        return speller.add([token])


class Worker(threading.Thread):
    """The models' thread.

    Args:
        artefact: Models, heads and thresholds.
        config: The server's limits.
        default: Method, budget and sampling of a request that names none: its engine is made first.
    """

    def __init__(self, artefact: Artefact, config: ServeConfig, default: GenerateConfig) -> None:
        super().__init__(name="wheels-engine", daemon=True)
        self.artefact, self.config = artefact, config
        self.commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.lanes: dict[GenerateConfig, Lane] = {}
        """The least recently used first."""
        self.unplaced: deque[Job] = deque()
        """Jobs that no engine has taken yet."""
        self.scoring: deque[ScoreJob] = deque()
        """Texts that are only scored: a pass at a time, between the engines' steps."""
        self.closed = False
        self.waiting = 0
        """Texts that wait for a slot."""
        self._lane(default)  # passes are timed here, and what cannot be decoded is refused

    def submit(self, job: Job) -> None:
        """Let a job wait; from any thread."""
        self.commands.put(partial(self.unplaced.append, job))

    def score(self, job: ScoreJob) -> None:
        """Let texts wait to be scored; from any thread."""
        self.commands.put(partial(self.scoring.append, job))

    def cancel(self, job: Job) -> None:
        """Drop a job before the next step; from any thread."""
        self.commands.put(partial(self._cancel, job))

    def abort(self, error: Exception) -> None:
        """End all jobs with an error; from any thread."""
        self.commands.put(partial(self._abort, error))

    def close(self) -> None:
        """End the thread after the step that runs; from any thread."""
        self.commands.put(self._close)

    def run(self) -> None:
        """Step the engines until the end; nothing that goes wrong in one of them ends the thread."""
        while not self.closed:
            self._obey()
            self._place()
            for how, lane in list(self.lanes.items()):
                if lane.busy:
                    self._step(how, lane)
            self._score()
            self.waiting = sum(len(lane.engine.waiting) for lane in self.lanes.values()) + sum(
                len(job.sequences) for job in self.unplaced
            )

    def _obey(self) -> None:
        """Carry out what was asked for; where there is nothing to do, wait for it."""
        if not self.unplaced and not self.scoring and not any(lane.busy for lane in self.lanes.values()):
            self.commands.get()()
        while not self.commands.empty():
            self.commands.get()()

    def _place(self) -> None:
        """Give jobs to engines, in the order in which they came."""
        while self.unplaced:
            job = self.unplaced[0]
            try:
                lane = self._lane(job.how)
            except Exception as error:
                self._fail([job], error)
            else:
                if lane is None:
                    return
                lane.submit(job)
            self.unplaced.popleft()

    def _lane(self, how: GenerateConfig) -> Lane | None:
        """Return the engine for a way of decoding, the most recently used now; None where there is no room for it."""
        lane = self.lanes.pop(how, None)
        if lane is None:
            if len(self.lanes) >= self.config.engines:
                idle = next((known for known, each in self.lanes.items() if not each.busy), None)
                if idle is None:
                    return None
                del self.lanes[idle]
            lane = Lane(self.artefact, how, self.config)
        self.lanes[how] = lane
        return lane

    def _step(self, how: GenerateConfig, lane: Lane) -> None:
        """Run one pass of an engine; where it fails its jobs do, and the engine is given up."""
        try:
            deliver(lane.step())
        except Exception as error:
            del self.lanes[how]
            self._fail({id(choice.job): choice.job for choice in lane.choices.values()}.values(), error)

    def _score(self) -> None:
        """Run one pass over texts that are only scored; those whose client has left are dropped."""
        while self.scoring and self.scoring[0].found.done():
            self.scoring.popleft()
        if not self.scoring:
            return
        job, error = self.scoring[0], None
        try:
            over = score_next(self.artefact.pair, job, min(ROWS, self.config.batch_size))
        except Exception as failure:
            log.error("a request failed in the teacher: %s: %s", type(failure).__name__, failure)
            over, error = True, failure
        if over:
            self.scoring.popleft()
            settle(job, error)

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        log.error("a request failed in the engine: %s: %s", type(error).__name__, error)
        deliver([(job, error) for job in jobs])

    def _cancel(self, job: Job) -> None:
        if job in self.unplaced:
            self.unplaced.remove(job)
        elif job.how in self.lanes:
            self.lanes[job.how].cancel(job)

    def _abort(self, error: Exception) -> None:
        jobs = {id(choice.job): choice.job for lane in self.lanes.values() for choice in lane.choices.values()}
        jobs |= {id(job): job for job in self.unplaced}
        for job in jobs.values():
            self._cancel(job)
        deliver([(job, error) for job in jobs.values()])
        while self.scoring:
            settle(self.scoring.popleft(), error)

    def _close(self) -> None:
        self.closed = True


def deliver(events: Iterable[tuple[Job, Delta | Exception]]) -> None:
    """Hand events over to the event loops of their jobs, all of a step at once."""
    found = list(events)
    for loop in {job.loop for job, _ in found}:
        own = [(job, event) for job, event in found if job.loop is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(put_all, own)


def put_all(events: Iterable[tuple[Job, Delta | Exception]]) -> None:
    """Give each job its event; in the event loop."""
    for job, event in events:
        job.put(event)


def settle(job: ScoreJob, error: Exception | None) -> None:
    """Tell a job's event loop that it is scored, or why not."""

    def tell() -> None:
        if not job.found.done():  # its client may have left
            job.found.set_result(None) if error is None else job.found.set_exception(error)

    loop = job.found.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(tell)
