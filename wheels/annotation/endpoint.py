"""A client for OpenAI-compatible endpoints that survives 429, 5xx, hangs and broken replies.

The key comes from an environment variable and is written nowhere: not to a file, not into an error, not into an answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import json
import logging
import random
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx2

from wheels.annotation.answer import Answer
from wheels.annotation.completion import (
    Again,
    RequestFailed,
    RequestRefused,
    ServerRefused,
    answer_of,
    fault_of,
    message_of,
)
from wheels.annotation.retry import Patience, backoff, wait_of
from wheels.errors import WheelsError
from wheels.secret import DEFAULT_KEY, RUN, read_secret

log = logging.getLogger("wheels")

LARGEST = 4_000_000
"""Bytes of an answer; what sends more is no annotator."""
SHOWN = 200
"""Characters of what a server says of an error that are shown."""
IDEMPOTENCY = "Idempotency-Key"
"""The header that names an item: a server that knows it charges the item once, however often it is asked."""
_UNSUPPORTED = re.compile(
    r"unsupported|not support|n't support|unrecogni|unknown|unexpected|extra|not permitted|not allowed|deprecated"
    r"|instead",
    re.IGNORECASE,
)

Ask = Callable[[str, str], Answer]
"""(prompt, idempotency key) -> answer; see `Endpoint.ask`."""


def chat_url(url: str) -> httpx2.URL:
    """Return the chat-completions address under `url`, keeping its `?api-version=`.

    `url` is a server, an address with a version (`/v1`, `/v1beta/openai`) or a deployment in it, or the whole address.

    Raises:
        WheelsError: for what is no http(s) address, or one that holds a name, a key or another query.
    """
    shown = re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url)[0])
    try:
        parts = httpx2.URL(url)
        labels = parts.raw_host.decode("ascii").rstrip(".").split(".")
    except (httpx2.InvalidURL, ValueError):
        raise WheelsError(f"an endpoint must be http(s)://host[:port]/..., got {shown!r}") from None
    named = ":" in parts.host or all(0 < len(label) < 64 and "%" not in label for label in labels)
    port = 1 if parts.port is None else parts.port
    if parts.scheme not in ("http", "https") or not named or not 0 < port < 65536:
        raise WheelsError(f"an endpoint must be http(s)://host[:port]/..., got {shown!r}")
    raw_path, _, query = parts.raw_path.decode("ascii").partition("?")
    version = re.fullmatch(r"(?:api-version=[\w.-]{1,40})?", query)
    if parts.userinfo or parts.fragment or version is None:
        raise WheelsError(
            "an endpoint must be a plain address, with no query but ?api-version=...; a key comes from an environment "
            "variable"
        )
    path = raw_path.rstrip("/")
    if not path.endswith("/chat/completions"):
        versioned = re.search(r"/v\d[^/]*(?:/|$)|/deployments/[^/]+$", path)
        path += "/chat/completions" if versioned else "/v1/chat/completions"
    return parts.copy_with(raw_path=(path + (f"?{query}" if query else "")).encode())


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, however it is written."""
    name = host.rstrip(".").lower()
    if name in ("localhost", socket.gethostname().lower()) or name.endswith((".localhost", "localhost.localdomain")):
        return True
    try:
        address: Any = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(name))
        except OSError:
            return False
    address = getattr(address, "ipv4_mapped", None) or address
    return bool(address.is_loopback or address.is_unspecified)


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


class Endpoint:
    """One model at an address, shared by threads."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = DEFAULT_KEY,
        max_tokens: int = 256,
        patience: Patience | None = None,
        workers: int = 8,
        seed: int | None = None,
    ) -> None:
        """Prepare a client; nothing is sent.

        Args:
            url: see `chat_url`.
            model: the name that the server knows it by.
            key_variable: the environment variable that holds the key; the default one may be missing, for no key.
            max_tokens: the longest answer.
            patience: how long and how often.
            workers: connections that are kept open.
            seed: of the waits.

        Raises:
            WheelsError: for an address, a key or a proxy that cannot be used.
        """
        self.url = chat_url(url)
        self.model = model
        self.patience = patience or Patience()
        self.stopped = threading.Event()
        self._options: Mapping[str, float] = {"temperature": 0.0, "max_tokens": max_tokens}
        self._key = read_secret(key_variable, "the key of an endpoint")
        self._random = random.Random(seed)
        self._client = open_client(self.url, workers)
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

    def ask(self, prompt: str, key: str) -> Answer:
        """Return the model's answer to a prompt, decoded as greedily as the server allows.

        Args:
            prompt: the text of the one message.
            key: names the item; the same in every attempt, of this run and of the next.

        Raises:
            RequestFailed: where every attempt failed in a way that may pass.
            RequestRefused: where the server will not answer this prompt: it is too long, or against its policy.
            ServerRefused: where it will answer none: the key, the address or the model is not right.
        """
        reason = "it was stopped"
        for attempt in range(self.patience.attempts):
            if self.stopped.is_set():
                break
            try:
                return self._masked(self._attempt(prompt, key))
            except Again as failure:
                reason = str(failure)
                if failure.wait is not None and failure.wait > self.patience.longest:
                    reason += f", to be tried again after {failure.wait:.0f} s"
                    break
                wait = backoff(attempt, self.patience, self._random.random())
                if attempt + 1 < self.patience.attempts:
                    self.stopped.wait(wait + (failure.wait or 0.0))
            except (RequestRefused, ServerRefused) as refusal:
                raise type(refusal)(self._with_address(str(refusal))) from None
        raise RequestFailed(self._with_address(f"gives no answer: {reason}"))

    def _attempt(self, prompt: str, key: str) -> Answer:
        """Return the answer to one request; options that the server rejects are dropped and the rest sent again."""
        while True:
            options = self._options
            body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], **options}
            try:
                code, headers, content = asyncio.run_coroutine_threadsafe(self._send(body, key), self._loop).result()
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
            if 200 <= code < 300:
                return answer_of(content)
            message = message_of(content) if code >= 400 else f"it redirects to {headers.get('Location', 'nowhere')!r}"
            if code in (400, 422) and self._adapt(options, message):
                continue
            kind = fault_of(code, message)
            if kind is Again:
                raise Again(f"code {code}", wait_of(headers, datetime.now(UTC)))
            raise kind(f"answers with code {code}: {message}")

    async def _send(self, body: Mapping[str, Any], key: str) -> tuple[int, Mapping[str, str], bytes]:
        """Return the code, the headers and the content of one answer, within the time and the size it may take."""
        headers = {IDEMPOTENCY: key, "Content-Type": "application/json"}
        if self._key.value:
            headers["Authorization"] = f"Bearer {self._key.value}"
            if self.url.query:  # servers with an api-version read the key here
                headers["api-key"] = self._key.value
        content = bytearray()
        async with (
            asyncio.timeout(self.patience.timeout),
            self._client.stream("POST", self.url, content=json.dumps(body).encode(), headers=headers) as response,
        ):
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST:
                    raise RequestRefused(f"sends an answer of more than {LARGEST} bytes")
            return response.status_code, response.headers, bytes(content)

    def _adapt(self, sent: Mapping[str, float], message: str) -> bool:
        """Rename or drop the option that a server rejects; return whether to send again."""
        changed = dict(sent)
        if _UNSUPPORTED.search(message):
            if "max_tokens" in sent and re.search(r"max_(?:completion_)?tokens", message):
                changed["max_completion_tokens"] = changed.pop("max_tokens")
            elif "temperature" in sent and "temperature" in message:
                del changed["temperature"]
                log.warning("%s takes no temperature: its answers are not greedy", self.model)
        if changed != sent:
            self._options = changed
        return changed != sent

    def _with_address(self, text: str) -> str:
        """Return the error line with the address, and with the key masked: some servers repeat it."""
        return self._key.mask(f"{self.url} {' '.join(self._key.mask(text).split())[:SHOWN]}")

    def _masked(self, answer: Answer) -> Answer:
        """Return an answer with the key masked; one that repeats it is no label. A word such as `EMPTY` is no key."""
        if len(self._key.value) < RUN and self._key.value.isalpha():
            return answer
        text = self._key.mask(answer.text)
        return answer if text == answer.text else replace(answer, text=text, flaw="repeats the key")
