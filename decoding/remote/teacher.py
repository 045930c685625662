"""A teacher at an address, and what becomes of a text when it fails."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

from wheels.data.prompts import SOURCE_ALONE, Prompt
from wheels.decoding.methods.choices import ON_TEACHER_ERROR
from wheels.decoding.remote.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from wheels.decoding.remote.completions import Completions
from wheels.decoding.remote.ledger import Ledger, OverLimit
from wheels.decoding.remote.prices import Prices
from wheels.decoding.remote.protocol import Answer, Student, TextSoFar
from wheels.decoding.remote.span import SpanRule
from wheels.decoding.remote.text import Asked, TextCompletions
from wheels.decoding.sampling import Sampling
from wheels.endpoints.client import Client
from wheels.endpoints.dialects import CHAT, dialect_of, teacher_url
from wheels.endpoints.faults import RequestFailed, RequestRefused, ServerRefused
from wheels.endpoints.options import check_teacher_prompt
from wheels.endpoints.probe import Probe, probe_cost, probe_of
from wheels.endpoints.retry import Patience
from wheels.errors import WheelsError, check_choice
from wheels.secret import DEFAULT_KEY

log = logging.getLogger("wheels")

WORKERS = 16
"""Connections at a time, where each text needs a request of its own."""
REASONS = 20
"""Different reasons of failures that are told apart."""


class RemoteTeacher:
    """A model behind a server of vLLM, SGLang, llama.cpp or `wheels serve` that writes tokens for a student.

    Any other model that completes texts, and any chat, writes text for it (`wheels.decoding.remote.text`).

    Args:
        url: The server, such as `http://host:8000/v1`; of SGLang `http://host:30000/generate`, of llama.cpp
            `http://host:8080/completion`, and of a chat `https://host/v1/chat/completions`.
        model: What the server knows the model by.
        key_variable: The environment variable that holds the server's key; the default one may be missing, for no key.
        timeout: Seconds for one request, from the search for the host to the last byte.
        attempts: Requests for one call at most; only what may pass is tried again, after a wait with jitter.
        prompt: What it reads of a source, with `{source}` in it, where it is asked in words; None: what the student
            reads. With `{written}` the beginning of the output stands there too, for chats that continue none.
        span: How much a call buys: `tokens:N`, `sentence`, `line` or `auto` (`wheels.decoding.remote.span`).
        write_on: Whether the student writes on while an answer is under way (`wheels.decoding.remote.write_on`).
        on_error: What a call does that gets no answer: `continue`, the student writes in its place; `stop`: an error.
        prices: What tokens cost; None: they are counted, and nobody says what they cost.
        budget_dollars: Dollars that may be spent; a call that could cost more than is left is not made.
        max_teacher_requests: Requests that may be sent, those of the probe and every new attempt among them.
        max_teacher_tokens: Tokens that the teacher may write.
        ledger: A file that keeps account of all three, so that another run goes on with what is left.
        breaker: When the server is left alone; None: after three failures in a row, for five seconds and longer.

    Raises:
        WheelsError: for an address, a key or a proxy that cannot be used. Nothing is sent yet.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = DEFAULT_KEY,
        timeout: float = 30.0,
        attempts: int = 3,
        prompt: str | None = None,
        span: str = "tokens:1",
        write_on: bool = True,
        on_error: str = "continue",
        prices: Prices | None = None,
        budget_dollars: float | None = None,
        max_teacher_requests: int | None = None,
        max_teacher_tokens: int | None = None,
        ledger: str | Path | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.model, self.on_error = model, check_choice("on_teacher_error", on_error, ON_TEACHER_ERROR)
        self.span, self.write_on = SpanRule.of(span), write_on
        if prompt is not None:
            check_teacher_prompt("teacher_prompt", prompt)
        self.prompt, self.student_prompt = prompt, SOURCE_ALONE
        self.ledger = Ledger(
            prices, budget_dollars, ledger, max_requests=max_teacher_requests, max_tokens=max_teacher_tokens
        )
        patience = Patience(attempts, timeout, base=0.25, cap=2.0, longest=10.0)
        self.client = Client(
            teacher_url(url), key_variable=key_variable, patience=patience, workers=WORKERS, before=self.ledger.send
        )
        self.breaker = Breaker() if breaker is None else breaker
        self.failures: dict[str, int] = {}
        """The reasons of calls without an answer, and how often each was."""
        self._mutex, self._trial = threading.Lock(), threading.Lock()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="teacher")
        self._calls = ThreadPoolExecutor(WORKERS, thread_name_prefix="call")
        self._completions: Completions | None = None
        self.close = weakref.finalize(self, _close, self.client, (self._pool, self._calls), self.ledger)
        """Closes the connections; at the latest when nobody holds the teacher any more."""

    @property
    def place(self) -> str:
        """Where it is, for errors."""
        return f"{self.model!r} at {self.client.url}"

    @property
    def is_chat(self) -> bool:
        """Whether it is a chat."""
        return dialect_of(self.client.url) is CHAT

    @property
    def by_text(self) -> bool:
        """Whether it is asked in words, as far as is known."""
        return self.is_chat or isinstance(self._completions, TextCompletions)

    def connect(self, student: Student) -> Probe | None:
        """Find out what the server has; None where it does not answer now, and the student is to go on without it.

        Args:
            student: Whose teacher it is.

        Raises:
            WheelsError: where it cannot be a teacher of this student (`probe`); and where it does not answer, if that
                is to stop everything.
        """
        self._student = student
        try:
            return self._connected().probe
        except (RequestFailed, OverLimit) as error:
            self._failed(error, 0)
            self.breaker.failed(for_all=True)
            return None

    def read_by(self, prompt: Prompt) -> None:
        """Take note of what the student reads of a source.

        Raises:
            WheelsError: where the teacher cannot be asked so.
        """
        self.student_prompt = prompt
        if isinstance(self._completions, TextCompletions):
            self._completions.asked()

    def _connected(self) -> Completions:
        """Return what speaks to the server, which is asked what it has at first."""
        if self._completions is None:
            student = self._student
            request = self.ledger.reserve(*probe_cost(self.client, student.tokenizer))
            try:
                found = probe_of(self.client, self.model, student.tokenizer)
            except WheelsError:
                self.ledger.release(request)
                raise
            self.ledger.settle(request, found.usage)
            self._completions = self._speaking(found)
            log.info("teacher %s", self._completions.probe)
        return self._completions

    def _speaking(self, found: Probe) -> Completions:
        """Return what speaks to a server that has so much."""
        student, why = self._student, found.difference
        if why is None and student.is_seq2seq and not found.is_wheels:
            why = f"{self.client.url} continues prompts, and the student is an encoder-decoder"
        if why is None:
            return Completions(self.client, self.model, found, student.vocab_size)
        if found.is_wheels and not self.is_chat:
            raise WheelsError(f"{why}; `wheels serve` writes in its own tokens: serve the teacher of this student")
        found, prompt = replace(found, difference=why), self.prompt

        def asked() -> Asked:
            told = self.is_chat, found.continues, found.echoes, student.is_seq2seq
            return Asked(str(self.client.url), why, self.student_prompt, prompt, *told)

        asked()
        log.info("%s; so it is asked in words", why)
        return TextCompletions(self.client, self.model, found, student, asked)

    def write(self, texts: Sequence[TextSoFar], sampling: Sampling) -> list[Answer]:
        """Return what the teacher writes after each text, and what that used.

        Texts share a request where the server takes several, none draws tokens, and as many tokens are asked for; else
        each has its own, `WORKERS` at a time. While the breaker is open nothing is sent; half open, the first text goes
        alone.

        Raises:
            WheelsError: for a call without an answer, where `on_error` is `stop`.
        """
        if self.breaker.state == CLOSED:
            return self._in_turns(texts, sampling)
        with self._trial:  # one call tries a server that was left alone, whoever else asks meanwhile
            return self._in_turns(texts, sampling)

    def later(self, texts: Sequence[TextSoFar], sampling: Sampling) -> Future[list[Answer]]:
        """Return what the answers of `write` will be in."""
        return self._calls.submit(self.write, texts, sampling)

    def _in_turns(self, texts: Sequence[TextSoFar], sampling: Sampling) -> list[Answer]:
        """Return the answers to all texts, one turn after the other."""
        answers = [Answer()] * len(texts)
        for places in self._turns(len(texts)):
            found = self._asked([texts[place] for place in places], sampling)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _turns(self, count: int) -> Sequence[range]:
        """Return which texts go out, one turn after the other: a trial first, where the breaker is half open."""
        if self.breaker.state == CLOSED:
            return [range(count)]
        return [range(1), range(1, count)] if count > 1 else [range(1)]

    def _asked(self, texts: Sequence[TextSoFar], sampling: Sampling) -> Sequence[Answer]:
        """Return the answers to some texts."""
        if self.breaker.state == OPEN:
            return [Answer()] * len(texts)
        together = self._completions is not None and self._completions.probe.batches
        if not together or not sampling.greedy or self.breaker.state == HALF_OPEN:
            return self._each(texts, sampling)
        answers = [Answer()] * len(texts)
        by_length: dict[int, list[int]] = {}
        for place, text in enumerate(texts):
            by_length.setdefault(text.most, []).append(place)
        groups = list(by_length.values())
        whole = self._pool.map(lambda places: self._together([texts[place] for place in places], sampling), groups)
        for places, found in zip(groups, whole, strict=True):
            each = self._each([texts[place] for place in places], sampling) if found is None else found
            for place, answer in zip(places, each, strict=True):
                answers[place] = answer
        return answers

    def _each(self, texts: Sequence[TextSoFar], sampling: Sampling) -> Sequence[Answer]:
        """Ask for each text in a request of its own."""
        return list(self._pool.map(lambda text: self._try([text], sampling)[0], texts))

    def _together(self, texts: Sequence[TextSoFar], sampling: Sampling) -> Sequence[Answer] | None:
        """Ask for several texts in one request; None where it is refused, for one of them may be at fault."""
        try:
            return self._try(texts, sampling, refusable=len(texts) > 1)
        except RequestRefused:
            return None

    def _try(self, texts: Sequence[TextSoFar], sampling: Sampling, *, refusable: bool = False) -> Sequence[Answer]:
        """Send one request for texts that may get equally long, and keep account of how it went."""
        try:
            answers = self._paid(texts, sampling)
        except OverLimit as limit:
            if len(texts) > 1:  # one by one, where all of them cost too much
                return [self._try([text], sampling)[0] for text in texts]
            self._note(str(limit), 1)
            return [Answer()]
        except WheelsError as error:
            if refusable and isinstance(error, RequestRefused):
                raise
            self._failed(error, len(texts))
            return [Answer()] * len(texts)
        if any(answer.span is not None for answer in answers):
            self.breaker.succeeded()
        for answer in answers:
            if answer.error is not None:
                self._failed(answer.error, 1)
        return answers

    def _paid(self, texts: Sequence[TextSoFar], sampling: Sampling) -> Sequence[Answer]:
        """Send one request under a reservation, and settle it; for one text alone it is cut to what may be spent."""
        connected = self._connected()
        read = sum(connected.reads(text) for text in texts)
        most = texts[0].most
        if len(texts) == 1:
            most = max(1, int(min(most, self.ledger.fits(read, 1))))
        rule = replace(self.span, most=most)
        request = self.ledger.reserve(read, rule.most * len(texts))
        try:
            answers = connected.write(texts, rule, sampling)
        except WheelsError:
            self.ledger.release(request)
            raise
        self.ledger.settle(request, replace(reduce(add, (answer.usage for answer in answers)), requests=1))
        return answers

    def _failed(self, error: WheelsError, count: int) -> None:
        """Take note of calls without an answer.

        Raises:
            WheelsError: where that is to stop everything.
        """
        if self.on_error == "stop":
            raise type(error)(f"the teacher failed: {error}; --on-teacher-error continue lets the student go on")
        if isinstance(error, RequestRefused):
            self.breaker.succeeded()  # it is about one text: the server is well
        else:
            self.breaker.failed(for_all=isinstance(error, ServerRefused))
        self._note(f"the teacher failed, and the student goes on: {error}", count)

    def _note(self, reason: str, count: int) -> None:
        """Count calls without an answer by their reason, which is logged once."""
        with self._mutex:
            if reason not in self.failures and len(self.failures) >= REASONS:
                reason = "the teacher failed for other reasons too"
            if reason not in self.failures:
                log.warning("%s", reason)
            self.failures[reason] = self.failures.get(reason, 0) + count


def _close(client: Client, pools: Sequence[ThreadPoolExecutor], ledger: Ledger) -> None:
    client.close()
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
    ledger.close()
