"""Streaming clients of a server, and the server's process: what both of them take."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
PATIENCE = 300
"""Seconds that a server has to start."""


@dataclass
class Waits:
    """What the clients saw, in seconds."""

    first: list[float] = field(default_factory=list)
    """From the request to the first event with text."""
    between: list[float] = field(default_factory=list)
    """Between two events of a stream; one may hold several tokens."""
    rates: list[float] = field(default_factory=list)
    """Tokens a second of each stream, the wait for its first among them."""
    errors: list[str] = field(default_factory=list)
    """Streams with an error, or without an end."""
    tokens: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    """What was written for each prompt."""

    def add(self, other: Waits) -> None:
        """Take in what others saw."""
        self.first += other.first
        self.between += other.between
        self.rates += other.rates
        self.errors += other.errors
        self.tokens += other.tokens
        self.texts |= other.texts


async def ask(port: int, body: dict[str, Any], waits: Waits) -> None:
    """Read one stream to its end, which is [DONE] or the usage where a server says no more after it."""
    content = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    last = start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{HEAD}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    text, tokens, done = "", None, False
    async for line in reader:
        if not line.startswith(b"data: "):
            continue
        now = time.perf_counter()
        if line.startswith(b"data: [DONE]"):
            done = True
            continue
        event = json.loads(line[6:])
        if "choices" not in event:
            waits.errors.append(line.decode())
        elif new := "".join(choice["text"] for choice in event["choices"]):
            waits.between.append(now - last) if text else waits.first.append(now - start)
            last, text = now, text + new
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
    writer.close()
    if tokens is None and not done:
        waits.errors.append("a stream without an end")
    else:
        waits.tokens += tokens or 0
        waits.rates.append((tokens or 0) / (time.perf_counter() - start))
        waits.texts[body["prompt"]] = text


async def load(port: int, bodies: Sequence[dict[str, Any]], users: int, waits: Waits) -> float:
    """Ask for all bodies, `users` at a time; return the seconds that it took."""
    left = iter(bodies)

    async def user() -> None:
        for body in left:
            await ask(port, body, waits)

    start = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(users)))
    return time.perf_counter() - start


@dataclass(frozen=True)
class Serving:
    """A server's process."""

    port: int
    process: int

    @property
    def memory(self) -> float:
        """Its resident memory, in MiB; Linux alone tells."""
        with open(f"/proc/{self.process}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    @property
    def seconds(self) -> float:
        """Processor seconds of all its threads so far; Linux alone tells."""
        with open(f"/proc/{self.process}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(*arguments: str) -> Iterator[Serving]:
    """Run a server by this Python, with a port of its own, until the end of the block.

    Raises:
        RuntimeError: for a server that ends before it answers, or never does.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *arguments, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while not _answers(port):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no server: {' '.join(command)}")
            time.sleep(0.2)
        yield Serving(port, server.pid)
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    """Whether a server says that it is ready."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b" 200 " in connection.recv(64)
    return False


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of them lies, in milliseconds."""
    return 1000 * sorted(values)[int(share * (len(values) - 1))]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return the middle and the end of some waits, in milliseconds."""
    return {"p50": quantile(values, 0.5), "p95": quantile(values, 0.95)}
