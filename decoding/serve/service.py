"""From the body of a request to a job, and the bounds within which jobs are taken."""

from __future__ import annotations

import asyncio
import functools
import math
import secrets
import time
from collections import deque
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from wheels.decoding.commands.generate import method_of
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.methods.calibrated import known_rules
from wheels.decoding.methods.choices import BUDGETED
from wheels.decoding.sequences import Sequence
from wheels.decoding.serve.bodies import Body, ChatBody, CompletionBody
from wheels.decoding.serve.config import ServeConfig
from wheels.decoding.serve.echo import Echo, echo_of
from wheels.decoding.serve.errors import Refused
from wheels.decoding.serve.jobs import Job
from wheels.decoding.serve.metrics import Metrics
from wheels.decoding.serve.prompts import prompts_of
from wheels.decoding.serve.scoring import ScoreJob, score_job, scores_reply
from wheels.decoding.serve.starts import Start, starts_after
from wheels.decoding.serve.worker import Worker
from wheels.decoding.trace import STUDENT, TEACHER
from wheels.endpoints.scoring import TokenScores
from wheels.errors import WheelsError, did_you_mean, shown
from wheels.models.artefact import Artefact
from wheels.models.limits import room

KEPT = 256
"""Ways of decoding whose check is kept."""
MOST_SECONDS = 60
"""The longest wait that a client is told of."""


class Service:
    """What the endpoints share: the models, their thread, the counts.

    Args:
        artefact: Models, heads and thresholds.
        config: How to serve.
    """

    def __init__(self, artefact: Artefact, config: ServeConfig) -> None:
        self.artefact, self.config, self.pair = artefact, config, artefact.pair
        self.name = config.name or artefact.student_name
        self.default = config.default
        self.worker = Worker(artefact, config, self.default)
        self.known_rules, self.prices = known_rules(artefact), config.price_list
        self._how = functools.lru_cache(KEPT)(self._checked)
        self.metrics, self.started = Metrics(), int(time.time())
        self.tokenizing = asyncio.Lock()
        self.draining = False
        self.texts = 0
        """Texts that wait or are being written."""
        self.ends: deque[float] = deque(maxlen=32)
        """When the last jobs ended, one entry for each text."""
        self.context = self.pair.source_limit  # asked once: it takes a millisecond
        self.longest_prompt = min(config.longest_prompt, self.context or config.longest_prompt)

    @property
    def capacity(self) -> int:
        """Texts that are taken at a time: a batch, and those that may wait."""
        return self.config.batch_size + self.config.queue

    async def job(self, body: Body) -> Job:
        """Return the job of a request.

        Raises:
            Refused: for what this model does not do, and prompts or outputs that are too long.
        """
        self._check_model(body)
        how = self.how(body)
        async with self.tokenizing:  # off the loop, for a long prompt takes a while; one at a time, as tokenizers want
            prompts = await asyncio.to_thread(prompts_of, self.pair, body)
        count = body.n or 1
        if len(prompts) * count > self.capacity:
            message = f"{len(prompts)} prompts with n {count} are more texts than the {self.capacity} that are taken"
            raise Refused(400, message, param="n")
        starts = self._starts(prompts, body)
        seed = secrets.randbelow(2**32) if body.seed is None and how.temperature else body.seed or 0
        sequences = [
            Sequence(row * count + choice, start.prompt, start.limit, seed=seed, best=body.best)
            for row, start in enumerate(starts)
            for choice in range(count)
        ]
        for sequence in sequences:
            sequence.tokens += starts[sequence.index // count].written
            sequence.by_teacher += [False] * len(sequence.tokens)
        details = bool(body.return_authors or body.return_token_ids or body.best is not None)
        eager = bool(body.stream or body.stops)
        self.metrics.count("prompt_tokens", read := sum(map(len, prompts)))
        trimmed = self.pair.is_seq2seq or isinstance(body, ChatBody)
        lasts = [starts[sequence.index // count].last for sequence in sequences]
        interval = self.config.stream_interval
        stops, rereads = body.stops, bool(body.return_alternatives)
        return Job(how, sequences, read, eager, details, self.metrics, stops, trimmed, interval, lasts, rereads)

    def _check_model(self, body: Body) -> None:
        """Refuse another model's name."""
        if body.model != self.name:
            message = f"the model {shown(body.model)} does not exist; this server has {self.name!r}"
            raise Refused(404, message, param="model", code="model_not_found")

    def how(self, body: Body) -> GenerateConfig:
        """Return the method, budget and sampling that a request asks for.

        Raises:
            Refused: for what does not go together, and a rule or budget that the model has not.
        """
        method = body.method or self.default.method
        budgeted = method in BUDGETED
        known = self.known_rules
        if body.rule is not None and (body.rule not in known or not budgeted):
            hint = did_you_mean(body.rule, known)
            told = f"rule must be one of {', '.join(known)}, got {shown(body.rule)}{hint}"
            raise Refused(400, told if budgeted else f"method {method!r} asks no rule; leave it out", param="rule")
        if body.best is not None and method != "deferral":
            raise Refused(400, f"logprobs are kept by method 'deferral', got {method!r}", param="logprobs")
        temperature = body.temperature or 0.0
        top_p = (body.top_p or 1.0) if temperature else 1.0  # of the best token alone nothing is cut
        try:
            return self._how(method, body.teacher_budget, body.budget_mode, body.rule, temperature, top_p)
        except WheelsError as error:
            raise Refused(400, str(error)) from None

    def _checked(
        self,
        method: str,
        budget: float | None,
        mode: str | None,
        rule: str | None,
        temperature: float,
        top_p: float,
    ) -> GenerateConfig:
        """Return how a request is written, the defaults filled in; it is kept, for the check takes a millisecond."""
        default, budgeted = self.default, method in BUDGETED
        how = replace(
            default,
            method=method,
            teacher_budget=default.budget if budgeted and budget is None else budget,
            budget_mode=mode or (default.budget_mode if budgeted else "average"),
            rule=rule or default.rule,
            temperature=temperature,
            top_p=top_p,
        )
        method_of(how, self.artefact)
        return how

    def _starts(self, prompts: list[list[int]], body: Body) -> list[Start]:
        """Return where each text begins, and how long it may grow."""
        most = [self._most(prompt) for prompt in prompts]
        if isinstance(body, CompletionBody) and body.written_token_ids is not None:
            return starts_after(self.pair, prompts, most, body)
        return [Start(prompt, self._limit(prompt, own, body)) for prompt, own in zip(prompts, most, strict=True)]

    def _most(self, prompt: list[int]) -> int:
        """Return the most tokens that can follow a prompt.

        Raises:
            Refused: where the prompt is too long.
        """
        if len(prompt) > self.longest_prompt:
            message = f"the prompt has {len(prompt)} tokens, and at most {self.longest_prompt} are read; shorten it"
            raise Refused(400, message, param="prompt", code="context_length_exceeded")
        return room(len(prompt), self.config.longest_output, self.context, is_seq2seq=self.pair.is_seq2seq)

    def _limit(self, prompt: list[int], most: int, body: Body) -> int:
        """Return the most tokens that may follow a prompt, of the `most` that can.

        Raises:
            Refused: where there is no room, or not for what was asked for.
        """
        wanted = body.longest
        if most < 1 or (wanted is not None and wanted > most):
            message = f"after a prompt of {len(prompt)} tokens at most {most} can be written"
            message += "" if wanted is None else f", got max_tokens {wanted}"
            raise Refused(400, message, param="max_tokens", code="context_length_exceeded")
        return min(most, self.config.max_new_tokens) if wanted is None else wanted

    def submit(self, job: Job) -> None:
        """Let a job wait for its place.

        Raises:
            Refused: where too many wait already, or the server is about to end.
        """
        self._take(len(job.sequences))
        self.worker.submit(job)

    def _take(self, texts: int) -> None:
        """Count texts that wait, or refuse them."""
        if self.draining:
            raise Refused(503, "the server is shutting down; try another one, or later", retry_after=5)
        if self.texts + texts > self.capacity:
            self.metrics.count("refused")
            raise Refused(
                429,
                f"{self.texts} texts wait or are being written, and {self.capacity} are taken at a time; try again",
                code="queue_full",
                retry_after=self.retry_after(),
            )
        self.texts += texts

    async def scores(self, body: CompletionBody) -> dict[str, Any]:
        """Return what the teacher says of texts that are there.

        Raises:
            Refused: for what cannot be scored, or not now.
        """
        self._check_model(body)
        async with self.tokenizing:
            prompts = await asyncio.to_thread(prompts_of, self.pair, body)
        k = body.prompt_logprobs or 0
        job = await self._scored(score_job(self.pair, prompts, self.longest_prompt, k, body.written_token_ids))
        if self.prices is not None:
            self.metrics.count("dollars", job.cost.dollars(self.prices))
        return await asyncio.to_thread(scores_reply, self.pair, job, self.name, self.prices)

    async def _scored(self, job: ScoreJob) -> ScoreJob:
        """Return a job once its texts are scored."""
        self._take(len(job.texts))
        try:
            self.worker.score(job)
            await job.found
        finally:
            self.texts -= len(job.texts)
        self.metrics.count("prompt_tokens", job.read)
        self.metrics.count("passes", len(job.texts), model=STUDENT if job.student else TEACHER)
        return job

    async def echoes(self, body: CompletionBody, job: Job) -> list[Echo]:
        """Return the prompt of each choice, with log-probabilities where they are asked for.

        Raises:
            Refused: where they are of no one model, or no prompt can be told again.
        """
        if self.pair.is_seq2seq:
            raise Refused(400, "echo is for causal models: this one's prompts are no part of its texts", param="echo")
        prompts, scores = [sequence.source for sequence in job.sequences], list[TokenScores | None]()
        if body.best is not None:
            if (budget := job.how.teacher_budget) not in (0.0, 1.0):
                told = f"a prompt's log-probabilities are of one model: teacher_budget must be 0 or 1, got {budget}"
                raise Refused(400, told, param="teacher_budget")
            k = max(1, body.best)
            scored = await self._scored(score_job(self.pair, prompts, self.longest_prompt, k, student=not budget))
            job.cost, scores = job.cost + scored.cost, [*scored.scores]
        return [echo_of(self.pair, *each) for each in zip_longest(prompts, scores)]

    def leave(self, job: Job) -> None:
        """Give up the places of a job that was submitted; what of it is still being written is cancelled."""
        self.texts -= len(job.sequences)
        if self.prices is not None:
            self.metrics.count("dollars", job.cost.dollars(self.prices))
        if job.left:
            self.metrics.count("disconnects")
            self.worker.cancel(job)
        self.ends += [time.perf_counter()] * len(job.sequences)

    def retry_after(self) -> int:
        """Return in how many seconds a place should be free: those that wait, at the pace of the last ones."""
        if len(self.ends) < 2:
            return 1
        each = (time.perf_counter() - self.ends[0]) / len(self.ends)
        waiting = max(1, self.texts - self.config.batch_size)
        return min(MOST_SECONDS, max(1, math.ceil(each * waiting)))

    def drain(self) -> None:
        """Take no more requests, and finish those that are there."""
        self.draining = True

    def abort(self) -> None:
        """End all requests with an error."""
        self.draining = True
        self.worker.abort(Refused(503, "the server was stopped before the text was done"))

    def gauges(self) -> dict[str, float]:
        """Return what is measured now."""
        waiting = min(self.worker.waiting, self.texts)
        return {"texts_in_flight": self.texts, "texts_waiting": waiting, "ready": float(not self.draining)}
