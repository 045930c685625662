"""OpenAI's objects from deltas: whole answers, and the events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import wheels
from wheels.decoding.remote.prices import Prices
from wheels.decoding.serve.bodies import Body
from wheels.decoding.serve.echo import Echo
from wheels.decoding.serve.errors import Refused
from wheels.decoding.serve.jobs import Delta, Job, Piece, Told
from wheels.decoding.trace import STUDENT, TEACHER
from wheels.models.pair import Pair

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
DONE = b"data: [DONE]\n\n"
"""The last event of every stream."""


class Completions:
    """The objects of `/v1/completions`."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def __init__(self, pair: Pair, body: Body, job: Job, prices: Prices | None = None) -> None:
        self.spell = lambda token: str(pair.tokenizer.decode([token]))
        self.body, self.job, self.prices = body, job, prices
        self.echoes: Sequence[Echo] = ()
        """The prompt of each choice, where they begin with it."""
        self.lengths = [0] * len(job.sequences)
        """Characters of each choice that were told of, for the offsets of its tokens."""
        self.head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": f"wheels-{wheels.__version__}",
        }

    def answer(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        """Return the whole answer of a job that has ended."""
        choices = []
        for index in range(len(self.job.sequences)):
            own = [delta for delta in deltas if delta.choice == index]
            pieces = [piece for delta in own for piece in delta.pieces]
            text = "".join(delta.text for delta in own)
            text = self.echoes[index].text + text if self.echoes else text
            choices.append(self.choice(index, self.content(text), pieces, own[-1]))
        return self.head | {"object": self.whole, "choices": choices, "usage": self.usage()}

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the events of a stream; it never ends without one that says so."""
        head = self.head | {"object": self.chunk}
        usage = {"usage": None} if self._tells_usage else {}
        try:
            for choice in self.opening():
                yield event(head | {"choices": [choice]} | usage)
            async for deltas in self.job.deltas():
                for delta in deltas:
                    choice = self.choice(delta.choice, self.part(delta.text), delta.pieces, delta)
                    yield event(head | {"choices": [choice]} | usage)
            if self._tells_usage:
                yield event(head | {"choices": [], "usage": self.usage()})
        except Exception as error:
            yield event(failure(error).body())
        yield DONE

    def choice(self, index: int, content: dict[str, Any], pieces: Sequence[Piece], last: Delta) -> dict[str, Any]:
        """Return a choice, or a part of one, that ends as its last delta says."""
        told: dict[str, Any] = {"index": index, **content, "finish_reason": last.finish}
        told["logprobs"] = self.logprobs(index, pieces) if self.body.best is not None else None
        if self.body.return_token_ids:
            told["token_ids"] = [piece.token for piece in pieces]
            told["prompt_token_ids"] = self.job.sequences[index].source
            told["stop_reason"] = last.stop_reason
        if self.body.return_authors:
            told["authors"] = [
                {"token": piece.text, "id": piece.token, "author": TEACHER if piece.by_teacher else STUDENT}
                for piece in pieces
            ]
        if self.body.return_alternatives and last.finish is not None:
            told["alternatives"] = [alternative(each) for each in last.alternatives]
        return told

    def opening(self) -> list[dict[str, Any]]:
        """Return the parts that a stream begins with."""
        return []

    def content(self, text: str) -> dict[str, Any]:
        """Return where a whole answer has its text."""
        return {"text": text}

    def part(self, text: str) -> dict[str, Any]:
        """Return where a part of a stream has its text."""
        return {"text": text}

    def logprobs(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the log-probabilities of tokens: of the model that wrote each."""
        pieces = [*self.echoes[index].pieces, *pieces] if self.echoes else pieces
        offsets = []
        for piece in pieces:
            offsets.append(self.lengths[index])
            self.lengths[index] += len(piece.text)
        known = [piece.logprobs for piece in pieces]
        best = [None if each is None else {self.spell(token): value for token, value in each.best} for each in known]
        return {
            "tokens": [piece.text for piece in pieces],
            "token_logprobs": [None if each is None else each.own for each in known],
            "top_logprobs": best,
            "text_offset": offsets,
        }

    def usage(self) -> dict[str, int | float]:
        """Return the tokens that were read and written, those of them that the teacher wrote, and what it all took."""
        read, written, cost, prices = self.job.prompt_tokens, self.job.tokens, self.job.cost, self.prices
        told = {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "teacher_tokens": self.job.teacher_tokens,
            "student_passes": cost.student_passes,
            "teacher_passes": cost.teacher_passes,
            "seconds": cost.seconds,
        }
        if prices is not None:
            told |= {"dollars": cost.dollars(prices), "teacher_dollars": cost.teacher_dollars(prices)}
        return told

    @property
    def _tells_usage(self) -> bool:
        options = self.body.stream_options
        return options is not None and bool(options.include_usage)


class ChatCompletions(Completions):
    """The objects of `/v1/chat/completions`."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        """Return the role of each choice."""
        content = {"delta": {"role": "assistant", "content": ""}}
        return [{"index": index, **content, "finish_reason": None} for index in range(len(self.job.sequences))]

    def content(self, text: str) -> dict[str, Any]:
        """Return the message of a whole answer."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part(self, text: str) -> dict[str, Any]:
        """Return what a part of a stream adds to the message."""
        return {"delta": {"content": text} if text else {}}

    def logprobs(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the log-probabilities of tokens: of the model that wrote each."""
        known = [(piece, piece.logprobs) for piece in pieces if piece.logprobs is not None]
        return {
            "content": [
                logprob(piece.text, each.own)
                | {"top_logprobs": [logprob(self.spell(token), value) for token, value in each.best]}
                for piece, each in known
            ],
            "refusal": None,
        }


def logprob(text: str, value: float) -> dict[str, Any]:
    """Return one token of a chat's log-probabilities."""
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


def alternative(told: Told) -> dict[str, Any]:
    """Return what the model that did not write a token would have written."""
    found = told.alternative
    return {
        "token": told.text,
        "id": found.token,
        "author": TEACHER if told.by_teacher else STUDENT,
        "logprob": found.logprob,
        "written_logprob": found.written_logprob,
    }


def event(value: dict[str, Any]) -> bytes:
    """Return one event of a stream."""
    return f"data: {_encode(value)}\n\n".encode()


def failure(error: Exception) -> Refused:
    """Return what the client is told of an error in the engine: of others' faults no detail."""
    if isinstance(error, Refused):
        return error
    return Refused(500, "the engine failed to write this text; the server's log says why", code="engine_failure")
