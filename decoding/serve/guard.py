"""What every request passes first: the key, the host, the size and the type of the body. Plain ASGI."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wheels.decoding.serve.errors import Refused
from wheels.secret import Secret

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_PORT = re.compile(r":\d*$")
OPEN = ("/", "/health", "/health/live", "/health/ready")
"""Paths that need no key: of the models they tell nothing."""
KNOWN = (*OPEN, "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions")
"""Paths that are counted by name."""
LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Hosts by which a server on the loopback is asked: a page of another name may not reach it (DNS rebinding)."""


class Guard:
    """Refuses requests before anything of theirs is read.

    Args:
        app: What serves the others.
        refuse: Answers with an error.
        key: What clients must send as `Authorization: Bearer ...`; empty: nothing.
        local: Whether only names of this machine are answered to.
        body_limit: Bytes of a body.
    """

    def __init__(
        self, app: App, refuse: Callable[[Refused], App], *, key: Secret, local: bool, body_limit: int
    ) -> None:
        self.app, self.refuse, self.local, self.body_limit = app, refuse, local, body_limit
        self.count: Callable[..., None] = lambda *_, **__: None
        """Is told of each answer: `requests`, path, status."""
        self.expected = b"Bearer " + key.value.encode() if key.value else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, send = dict(scope["headers"]), self._counting(scope["path"], send)
        try:
            self._check(scope, headers)
            body = await self._body(receive) if scope["method"] == "POST" else b""
        except Refused as refused:
            await self.refuse(refused)(scope, receive, send)
            return
        await self.app(scope, _again(body, receive), send)

    def _counting(self, path: str, send: Send) -> Send:
        """Return a `send` that counts the answer."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.count("requests", path=path if path in KNOWN else "other", status=str(message["status"]))
            await send(message)

        return counting

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self.local and _PORT.sub("", headers.get(b"host", b"").decode("latin-1")) not in LOCAL:
            raise Refused(403, "this server answers to names of its own machine alone; ask 127.0.0.1")
        if self.expected and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                raise Refused(
                    401, "the API key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key"
                )
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if kind != b"application/json":
                raise Refused(415, "the body must be JSON; send Content-Type: application/json")

    async def _body(self, receive: Receive) -> bytes:
        """Return the whole body; of one that is too large some is read on, so that the client hears why.

        Raises:
            Refused: where it is too large, or the client has left.
        """
        parts, size, more = list[bytes](), 0, True
        while more and size <= 64 * self.body_limit:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "the body ended early")
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size <= self.body_limit:
                parts.append(part)
        if size > self.body_limit:
            raise Refused(413, f"the body is larger than {self.body_limit:,} bytes; send less", code="body_too_large")
        return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body once, and then what else comes: that the client leaves."""
    given = False

    async def again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again
