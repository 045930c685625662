"""A client of an OpenAI-compatible endpoint that gets through what a network does: 429, 5xx, hangs, broken answers.

The key comes from an environment variable and is written nowhere: not to a file, not into an error.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from wheels.errors import WheelsError

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""The codes after which the same request may succeed."""
LARGEST = 4_000_000
"""Bytes of an answer; what sends more is no annotator."""
IDEMPOTENCY = "Idempotency-Key"
"""The header that names an item: a server that knows it charges the item once, however often it is asked."""


Ask = Callable[[str, str], str]
"""(prompt, idempotency key) -> answer; see `Endpoint.ask`."""


class RequestFailed(WheelsError):
    """A request that got no answer after all attempts; it may get one later."""


class RequestRefused(WheelsError):
    """A request that the server will not answer, however often it is sent."""


class _Again(Exception):
    """An attempt that failed in a way that passes; `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """How long and how often a request is tried."""

    attempts: int = 8
    """Requests for one item, at most."""
    timeout: float = 60.0
    """Seconds for one whole attempt, from the connection to the last byte."""
    base: float = 0.5
    """Seconds: attempt n waits a random part of `base * 2^n` (full jitter) ..."""
    cap: float = 30.0
    """... and of no more than this."""
    longest: float = 300.0
    """The longest `Retry-After` that is waited for, in seconds."""


def backoff(attempt: int, patience: Patience, draw: float) -> float:
    """Return the seconds to wait after attempt 0, 1, ...: `draw * min(cap, base * 2^attempt)`, draw in [0, 1].

    "Full jitter" (Brooker 2015, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    return draw * min(patience.cap, patience.base * 2.0 ** min(attempt, 60))


def retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, >= 0: a number or an HTTP date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


def chat_url(url: str) -> str:
    """Return the address of chat completions below `url`: a server, its `/v1`, or the whole address.

    Raises:
        WheelsError: for what is no http(s) address, or one that holds a name, a key or a query.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WheelsError(f"an endpoint must be http(s)://host..., got {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise WheelsError("an endpoint must be a plain address; a key comes from an environment variable")
    path = url.rstrip("/")
    if path.endswith("/chat/completions"):
        return path
    return f"{path}/chat/completions" if path.endswith("/v1") else f"{path}/v1/chat/completions"


class Endpoint:
    """One model behind an address; threads share it."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        max_tokens: int = 256,
        patience: Patience | None = None,
        workers: int = 8,
        seed: int | None = None,
    ) -> None:
        """Prepare a client; nothing is sent.

        Args:
            url: see `chat_url`.
            model: the name that the server knows it by.
            key_variable: the environment variable that holds the key; without it no key is sent.
            max_tokens: the longest answer.
            patience: how long and how often.
            workers: connections at once.
            seed: of the waits.
        """
        self.url = chat_url(url)
        self.model = model
        self.patience = patience or Patience()
        self.stopped = threading.Event()
        self._max_tokens = max_tokens
        self._key = os.environ.get(key_variable, "")
        self._random = random.Random(seed)
        timeout = httpx2.Timeout(self.patience.timeout, pool=None)
        limits = httpx2.Limits(max_connections=workers, max_keepalive_connections=workers)
        self._client = httpx2.Client(timeout=timeout, limits=limits)

    def close(self) -> None:
        """Close the connections; requests that wait for another attempt end at once."""
        self.stopped.set()
        self._client.close()

    def ask(self, prompt: str, key: str) -> str:
        """Return the model's answer to a prompt, as greedy as the server can.

        Args:
            prompt: the text of the one message.
            key: names the item; the same in every attempt, of this run and of the next.

        Raises:
            RequestFailed: where every attempt failed in a way that may pass.
            RequestRefused: for a code that does not pass, such as 400, 401, 404.
        """
        reason = "it was stopped"
        for attempt in range(self.patience.attempts):
            if self.stopped.is_set():
                break
            try:
                return self._attempt(prompt, key)
            except _Again as failure:
                reason = str(failure)
                if failure.wait is not None and failure.wait > self.patience.longest:
                    reason += f", to be tried again after {failure.wait:.0f} s"
                    break
                wait = backoff(attempt, self.patience, self._random.random())
                if attempt + 1 < self.patience.attempts:
                    self.stopped.wait(wait + (failure.wait or 0.0))
        raise RequestFailed(self._plain(f"{self.url}: no answer: {reason}"))

    def _attempt(self, prompt: str, key: str) -> str:
        """Send one request."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0.0,
            "max_tokens": self._max_tokens,
        }
        headers = {IDEMPOTENCY: key}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            with self._client.stream("POST", self.url, json=body, headers=headers) as response:
                content = self._read(response)
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise _Again(f"{type(error).__name__} {error}".strip()) from error
        if response.status_code in AGAIN:
            raise _Again(f"code {response.status_code}", _wait_of(response))
        if response.status_code != 200:
            said = content.decode("utf-8", "replace")[:200]
            raise RequestRefused(self._plain(f"{self.url} answers with code {response.status_code}: {said}"))
        return content_of(content)

    def _read(self, response: httpx2.Response) -> bytes:
        """Return the body, within the time and the size that an answer may take."""
        end, content = time.monotonic() + self.patience.timeout, b""
        for part in response.iter_bytes():
            content += part
            if time.monotonic() > end:
                raise _Again(f"an answer that took more than {self.patience.timeout:g} s")
            if len(content) > LARGEST:
                raise _Again(f"an answer of more than {LARGEST} bytes")
        return content

    def _plain(self, text: str) -> str:
        """Return text without the key, which some servers repeat."""
        return text.replace(self._key, "[key]") if self._key else text


def content_of(body: bytes) -> str:
    """Return the text of the first choice.

    Raises:
        _Again: for what is not JSON, or holds no text there: a proxy's page, or an answer that was cut short.
    """
    try:
        answer: Any = json.loads(body)
        text = answer["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _Again(f"an answer that is no chat completion ({type(error).__name__})") from None
    if not isinstance(text, str):
        raise _Again("an answer without text")
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written to a file


def _wait_of(response: httpx2.Response) -> float | None:
    """Return the seconds that the server asks for."""
    return retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
