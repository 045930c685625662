"""A server on the loopback around a pair's teacher, with a latency of its own and a prompt cache that is counted.

It speaks the completions of `wheels serve` with token ids, as far as a remote teacher asks for them, for causal models
and encoder-decoders. The latency stands in the address, `http://127.0.0.1:PORT/50/v1`: so many milliseconds are waited
before each answer. What a run sent before counts as cached in blocks of `BLOCK` tokens, as in vLLM's prefix cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from wheels.config.fields import option
from wheels.config.parsing import parse, versions
from wheels.decoding.engine import Engine
from wheels.decoding.methods.method import teacher_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.sequences import Sequence as Text
from wheels.environment import processor_name
from wheels.models.artefact import Artefact
from wheels.models.pair import Pair

NAME = "teacher"
BLOCK = 16
"""Tokens of a prompt that are cached together."""
ROWS = 16
"""Texts of a forward pass at most."""


@dataclass(frozen=True)
class LoopbackConfig:
    """Whose teacher answers."""

    model: str | None = option(None, "folder of a trained model (default: the embedded pair)", metavar="DIR")


class PromptCache:
    """The prompts that were read, in whole blocks."""

    def __init__(self) -> None:
        self._known: set[tuple[int, ...]] = set()

    def read(self, tokens: Sequence[int]) -> int:
        """Return how many tokens of a prompt were read before, and remember it."""
        prefixes = [tuple(tokens[:end]) for end in range(BLOCK, len(tokens) + 1, BLOCK)]
        cached = sum(prefix in self._known for prefix in prefixes)
        self._known.update(prefixes)
        return BLOCK * cached


class Loopback(ThreadingHTTPServer):
    """The server."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, pair: Pair) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pair, self.cache, self.mutex = pair, PromptCache(), threading.Lock()
        self.engine = Engine(pair, [], teacher_only(), DecodeParams(max_new_tokens=4096), batch_size=ROWS, more=True)
        self.eos = frozenset(pair.eos_ids)

    def url(self, latency_ms: float = 0.0) -> str:
        """Return an address that answers after a latency."""
        return f"http://127.0.0.1:{self.server_address[1]}/{latency_ms:g}/v1"

    def write(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        given, most = body["prompt"], body["max_tokens"]
        prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        prompts = [self.pair.tokenizer(each).input_ids if isinstance(each, str) else each for each in prompts]
        begun = body.get("written_token_ids") or [[] for _ in prompts]
        limits = body.get("text_limits") or [len(own) + most for own in begun]
        with self.mutex:
            cached = [self.cache.read([*prompt, *own]) for prompt, own in zip(prompts, begun, strict=True)]
            texts = [
                Text(index, prompt, min(limit, len(own) + most), tokens=[*own], by_teacher=[False] * len(own))
                for index, (prompt, own, limit) in enumerate(zip(prompts, begun, limits, strict=True))
            ]
            for text in texts:
                self.engine.submit(text)
            while self.engine.busy:
                self.engine.step()
        wrote = [text.tokens[len(own) :] for text, own in zip(texts, begun, strict=True)]
        choices = [
            {
                "index": index,
                "text": "",
                "token_ids": new,
                "prompt_token_ids": prompt,
                "finish_reason": "stop" if new[-1] in self.eos else "length",
                "stop_reason": None,
            }
            for index, (prompt, new) in enumerate(zip(prompts, wrote, strict=True))
        ]
        read = sum(map(len, prompts)) + sum(map(len, begun))
        usage = {"prompt_tokens": read, "completion_tokens": sum(map(len, wrote))}
        return {
            "model": NAME,
            "choices": choices,
            "usage": usage | {"prompt_tokens_details": {"cached_tokens": sum(cached)}},
        }


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Loopback

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def setup(self) -> None:
        """Send each answer at once."""
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY: head and body are two writes

    def do_GET(self) -> None:
        """List the model; a client that asks for the list is a new run, and finds nothing in the cache."""
        self.server.cache = PromptCache()
        self.reply({"object": "list", "data": [{"id": NAME, "object": "model", "owned_by": "wheels"}]})

    def do_POST(self) -> None:
        """Write."""
        self.reply(self.server.write(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

    def reply(self, answer: dict[str, Any]) -> None:
        """Send an answer after the latency of its address, which comes on top of what it took to write."""
        time.sleep(float(self.path.split("/")[1]) / 1000)
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def server_of(model: str | None) -> Iterator[int]:
    """Yield the port of a server around the teacher of a model."""
    command = [sys.executable, "-m", "wheels.benchmarks.remote.loopback"]
    server = subprocess.Popen(
        [*command, *([] if model is None else ["--model", model])], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.terminate()
        server.wait()


def about(artefact: Artefact) -> dict[str, Any]:
    """Return what a result says of the models and the machine that it was measured with."""
    return {
        "model_digest": artefact.digest,
        "processor": processor_name(),
        "load_average": os.getloadavg(),
        "versions": versions(),
    }


def main(argv: Sequence[str]) -> None:
    """Serve until the process is ended; the first line says where."""
    config = parse(LoopbackConfig, argv, prog="python -m wheels.benchmarks.remote.loopback")
    server = Loopback(Artefact.load(config.model).pair)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
