"""`python -m wheels.benchmarks.serving.load`: streaming clients beside the engine alone, in turns, on the same texts.

Each round writes the texts by `decode`, and then by as many clients as there are users, each with one stream at a time.
The clients are a process of their own on the same machine: what they compute is part of the served time.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wheels.config.fields import option
from wheels.config.parsing import parse

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"


@dataclass(frozen=True)
class LoadConfig:
    """How many ask for how much."""

    users: int = option(200, "clients at a time", minimum=1)
    texts: int = option(600, "texts of a round, from the embedded corpus", minimum=1)
    rounds: int = option(5, "rounds, after one that is not counted", minimum=1)
    max_tokens: int = option(64, "longest output, in tokens", minimum=1)


@dataclass
class Waits:
    """What the clients saw, in seconds."""

    first: list[float] = field(default_factory=list)
    """From the request to the first event with text."""
    between: list[float] = field(default_factory=list)
    """Between two events of a stream; one may hold several tokens."""
    errors: list[str] = field(default_factory=list)
    """Streams with an error, or without an end."""
    tokens: int = 0

    def add(self, other: Waits) -> None:
        """Take in what others saw."""
        self.first += other.first
        self.between += other.between
        self.errors += other.errors
        self.tokens += other.tokens


async def ask(port: int, body: dict[str, Any], waits: Waits) -> None:
    """Read one stream to its end."""
    content = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    last = start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{HEAD}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    seen, done = False, False
    async for line in reader:
        if not line.startswith(b"data: "):
            continue
        now = time.perf_counter()
        if line.startswith(b"data: [DONE]"):
            done = True
        elif b'"choices":[]' in line:
            waits.tokens += json.loads(line[6:])["usage"]["completion_tokens"]
        elif b'"choices"' in line:
            waits.between.append(now - last) if seen else waits.first.append(now - start)
            last, seen = now, True
        else:
            waits.errors.append(line.decode())
    writer.close()
    if not done:
        waits.errors.append("a stream without an end")


async def load(port: int, bodies: Sequence[dict[str, Any]], users: int, waits: Waits) -> float:
    """Ask for all bodies, `users` at a time; return the seconds that it took."""
    left = iter(bodies)

    async def user() -> None:
        for body in left:
            await ask(port, body, waits)

    start = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(users)))
    return time.perf_counter() - start


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of them lies, in milliseconds."""
    return 1000 * sorted(values)[int(share * (len(values) - 1))]


def memory(process: int) -> int:
    """Return the resident memory of a process, in MiB; Linux alone tells."""
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def main(argv: Sequence[str]) -> None:
    """Run the rounds, and print what each gave."""
    from wheels.data.tasks import load_task
    from wheels.decoding.methods.calibrated import calibrated
    from wheels.decoding.methods.method import deferral
    from wheels.decoding.params import DecodeParams
    from wheels.decoding.streaming import decode
    from wheels.models.artefact import Artefact

    config = parse(LoadConfig, argv, prog="python -m wheels.benchmarks.serving.load")
    artefact, rows = Artefact.load(), load_task("embedded-translation").rows("test")
    method, params = deferral(calibrated(artefact, "learned", 0.2), 0.2), DecodeParams(max_new_tokens=config.max_tokens)
    texts = [rows[number % len(rows)].source for number in range(config.texts)]
    bodies = [{"model": "embedded-translation", "prompt": text, "max_tokens": config.max_tokens} for text in texts]
    command = [sys.executable, "-m", "wheels", "serve", "--port", "0", "--queue", str(config.users)]
    waits, ratios = Waits(), list[float]()
    server = subprocess.Popen([*command, "--backend", "torch"], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        port = int(server.stderr.readline().rpartition(":")[2].partition("/")[0])
        for number in range(config.rounds + 1):
            start = time.perf_counter()
            written = sum(trace.tokens for trace in decode(artefact.pair, texts, method, params))
            alone, seen = written / (time.perf_counter() - start), Waits()
            seconds = asyncio.run(load(port, bodies, config.users, seen))
            served = seen.tokens / seconds
            print(f"engine {alone:.0f} tokens/s, served {served:.0f}, server {memory(server.pid)} MiB", flush=True)
            if number:  # the first warms up
                ratios.append(served / alone)
                waits.add(seen)
    finally:
        server.terminate()
        server.wait()
    print(f"served over engine: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    for what, values in (("first token", waits.first), ("between events", waits.between)):
        print(f"{what}: p50 {quantile(values, 0.5):.0f} ms, p95 {quantile(values, 0.95):.0f} ms")
    print(f"{len(waits.first)} streams, {len(waits.errors)} errors")


if __name__ == "__main__":
    main(sys.argv[1:])
