"""A client of one server that survives 429, 5xx, hangs and broken replies.

The key comes from an environment variable and is written nowhere: not to a file, not into an error, not into an answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import random
import re
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx2

from wheels.endpoints.address import is_loopback
from wheels.endpoints.faults import (
    Again,
    AnswerUnusable,
    RequestFailed,
    RequestRefused,
    ServerRefused,
    fault_of,
    message_of,
    raise_error_of,
)
from wheels.endpoints.retry import Patience, backoff, wait_of
from wheels.errors import WheelsError
from wheels.json_text import parse_json
from wheels.secret import DEFAULT_KEY, read_secret

log = logging.getLogger("wheels")

LARGEST = 4_000_000
"""Bytes of an answer; what sends more is no model."""
SHOWN = 200
"""Characters of what a server says of an error that are shown."""
IDEMPOTENCY = "Idempotency-Key"
"""The header that names an item: a server that knows it charges the item once, however often it is asked."""

UNSUPPORTED = re.compile(
    r"unsupported|not support|n't support|unrecogni|unknown|unexpected|extra|not permitted|not allowed|deprecated"
    r"|instead",
    re.IGNORECASE,
)
OPTIONAL = (
    "temperature",
    "return_token_ids",
    "repetition_penalty",
    "continue_final_message",
    "add_generation_prompt",
)
"""What a server may refuse to read, and is then asked without."""

Value = TypeVar("Value")
Response = tuple[int, Mapping[str, str], bytes]
"""The code, the headers and the content of an answer."""


def open_client(url: httpx2.URL, workers: int) -> httpx2.AsyncClient:
    """Return a client with the environment's certificates and proxies; loopback hosts bypass the proxy.

    Raises:
        WheelsError: where these settings cannot be used.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=workers)
    try:
        direct = httpx2.AsyncHTTPTransport(limits=limits) if is_loopback(url.host) else None
        return httpx2.AsyncClient(timeout=None, limits=limits, transport=direct)
    except (httpx2.InvalidURL, ValueError, ImportError, OSError) as error:
        raise WheelsError(
            "the proxies or certificates of the environment (ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE) cannot "
            f"be used: {error}"
        ) from None


class Client:
    """Requests to one server, shared by threads."""

    def __init__(
        self,
        url: httpx2.URL,
        *,
        key_variable: str = DEFAULT_KEY,
        patience: Patience | None = None,
        workers: int = 8,
        seed: int | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a client; nothing is sent.

        Args:
            url: where requests go, as `wheels.endpoints.address.endpoint_url` returns it.
            key_variable: the environment variable that holds the key; the default one may be missing, for no key.
            patience: how long and how often.
            workers: connections that are kept open.
            seed: of the waits.
            before: called before each request; what it raises is what the request gives, and nothing is sent.

        Raises:
            WheelsError: for a key or a proxy that cannot be used.
        """
        self.url = url
        self.patience = patience or Patience()
        self.stopped, self.before = threading.Event(), before
        self.key = read_secret(key_variable, "the key of an endpoint")
        self.renamed: dict[str, str | None] = {}
        """What the server calls an option; None: it takes none of that name."""
        self._random = random.Random(seed)
        self._client = open_client(url, workers)
        # Requests run in a loop of their own, which can end one at any point: a deadline holds for the whole of it.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the connections; pending requests, and those waiting to retry, end at once."""
        self.stopped.set()
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """End what is under way."""
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.aclose()

    def retried(self, attempt: Callable[[], Value]) -> Value:
        """Return what an attempt gives, which is made again after what may pass.

        Raises:
            RequestFailed: where every attempt failed in a way that may pass.
            RequestRefused: where the server will not answer this request: it is too long, or against its policy.
            ServerRefused: where it will answer none: the key, the address or the model is not right.
            AnswerUnusable: where its answer is none.
        """
        reason = "it was stopped"
        for number in range(self.patience.attempts):
            if self.stopped.is_set():
                break
            try:
                return attempt()
            except Again as failure:
                reason = str(failure)
                if failure.wait is not None and failure.wait > self.patience.longest:
                    reason += f", to be tried again after {failure.wait:.0f} s"
                    break
                wait = backoff(number, self.patience, self._random.random())
                if number + 1 < self.patience.attempts:
                    self.stopped.wait(wait + (failure.wait or 0.0))
            except (AnswerUnusable, RequestRefused, ServerRefused) as refusal:
                raise type(refusal)(self.with_address(str(refusal))) from None
        raise RequestFailed(self.with_address(f"gives no answer: {reason}"))

    def fetch(self, body: Mapping[str, Any] | None, key: str | None = None, url: httpx2.URL | None = None) -> Response:
        """Return the answer to one request, whatever its code.

        Args:
            body: what is posted; None: the address is read (GET).
            key: names the item; the same in every attempt, of this run and of the next. None: none.
            url: where it goes; None: the client's own address.

        Raises:
            Again, RequestRefused, ServerRefused: where there is no answer, or one that is too long.
        """
        self.before()
        try:
            return asyncio.run_coroutine_threadsafe(self._send(body, key, url or self.url), self._loop).result()
        except concurrent.futures.CancelledError:
            raise Again("it was stopped") from None
        except TimeoutError:
            raise Again(f"an attempt that took more than {self.patience.timeout:g} s") from None
        except WheelsError:
            raise
        except (httpx2.LocalProtocolError, httpx2.InvalidURL, ValueError) as error:
            raise ServerRefused(f"cannot be asked: {type(error).__name__} {error}") from None
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise Again(f"{type(error).__name__} {error}".strip()) from None

    def posted(self, body: Mapping[str, Any], key: str | None = None) -> bytes:
        """Return the content of the answer to a request; without the options that the server refuses by name.

        Args:
            body: what is posted.
            key: as in `fetch`.

        Raises:
            Again, RequestRefused, ServerRefused: as `fetch` and `content_of`.
        """
        while True:
            renamed = self.renamed
            sent = {own: value for name, value in body.items() if (own := renamed.get(name, name)) is not None}
            response = self.fetch(sent, key)
            if response[0] not in (400, 422) or not self._adapt(renamed, sent, said_of(response)):
                return content_of(response)

    def _adapt(self, renamed: Mapping[str, str | None], sent: Mapping[str, Any], message: str) -> bool:
        """Take note of an option that a server refuses; return whether to send again."""
        found: dict[str, str | None] = {}
        if UNSUPPORTED.search(message):
            if "max_tokens" in sent and re.search(r"max_(?:completion_)?tokens", message):
                found["max_tokens"] = "max_completion_tokens"
            elif name := next((name for name in OPTIONAL if name in sent and name in message), None):
                found[name] = None
                if name == "temperature":
                    log.warning("%s takes no temperature: its answers are not greedy", sent.get("model"))
        if found:
            self.renamed = {**renamed, **found}
        return bool(found)

    async def _send(self, body: Mapping[str, Any] | None, key: str | None, url: httpx2.URL) -> Response:
        """Return one answer, within the time and the size it may take."""
        headers = {"Content-Type": "application/json"} | ({} if key is None else {IDEMPOTENCY: key})
        if self.key.value:
            headers["Authorization"] = f"Bearer {self.key.value}"
            if url.query:  # servers with an api-version read the key here
                headers["api-key"] = self.key.value
        method, sent = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
        content = bytearray()
        async with (
            asyncio.timeout(self.patience.timeout),
            self._client.stream(method, url, content=sent, headers=headers) as response,
        ):
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST:
                    raise RequestRefused(f"sends an answer of more than {LARGEST} bytes")
            return response.status_code, response.headers, bytes(content)

    def with_address(self, text: str) -> str:
        """Return the error line with the address, and with the key masked: some servers repeat it."""
        return self.key.mask(f"{self.url} {' '.join(self.key.mask(text).split())[:SHOWN]}")


def content_of(response: Response) -> bytes:
    """Return the content of an answer with a good code.

    Raises:
        Again, RequestRefused, ServerRefused: for another code.
    """
    code, headers, content = response
    if 200 <= code < 300:
        return content
    kind = fault_of(code, said := said_of(response))
    if kind is Again:
        raise Again(f"code {code}", wait_of(headers, datetime.now(UTC)))
    raise kind(f"answers with code {code}: {said}")


def said_of(response: Response) -> str:
    """Return what a server says with a code that is not good."""
    code, headers, content = response
    return message_of(content) if code >= 400 else f"it redirects to {headers.get('Location', 'nowhere')!r}"


def completion_of(whole: Any) -> dict[str, Any]:
    """Return an answer that has choices.

    Raises:
        Again: for what is no object.
        RequestRefused, ServerRefused: for an error in place of an answer.
    """
    if not isinstance(whole, dict):
        raise Again("an answer that is no JSON object")
    if not isinstance(whole.get("choices"), list) or not whole["choices"]:
        raise_error_of(whole)
    return whole


def value_of(content: bytes) -> Any:
    """Return what an answer holds.

    Raises:
        Again: for what is no JSON: an answer that was cut short on its way.
    """
    try:
        return parse_json(content, "the answer")
    except WheelsError:
        raise Again("an answer that is no JSON") from None
