"""A server on the loopback that speaks vLLM's `/v1/completions` around a tiny causal model, and plays faults."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from wheels.models.loading import Tokenizer

NAME, LIMIT, MOST_LOG_PROBS = "big/teacher", 64, 20


class FakeVllm(ThreadingHTTPServer):
    """Greedy tokens of a model, token ids in and out, under vLLM's names.

    Args:
        model: Writes.
        tokenizer: Reads the prompts that are text.
        batches: Whether several prompts may come at once.
        shows_end: Whether an end token is among the ids.
    """

    handler: "type[Handler]"
    path = "/v1"
    listing: ClassVar[dict[str, Any]] = {"id": NAME, "object": "model", "owned_by": "vllm", "max_model_len": LIMIT}
    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, *, batches: bool = True, shows_end: bool = True
    ) -> None:
        super().__init__(("127.0.0.1", 0), self.handler)
        self.model, self.tokenizer, self.batches, self.shows_end = model, tokenizer, batches, shows_end
        self.ends = {model.generation_config.eos_token_id}
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.fault: Callable[[Handler, dict[str, Any]], bool] | None = None
        """Plays a fault instead of the answer; returns whether it has."""
        self.change: Callable[[dict[str, Any]], Any] = lambda answer: answer
        """Makes another answer of one."""
        self.listed: Any = [dict(self.listing)]
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}"

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The requests with token ids: those that came after the probe."""
        return [body for body in self.bodies if not isinstance(body["prompt"], str | list) or is_ids(body["prompt"])]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error of ours."""

    def write(self, prompt: list[int], most: int, stops: list[str]) -> tuple[list[int], str, str | None]:
        """Return the ids, why they end, and the stop text that ended them."""
        ids = list(prompt)
        for _ in range(most):
            ids.append(next_token(self.model, tuple(ids)))
            if ids[-1] in self.ends:
                return ids[len(prompt) : len(ids) - (not self.shows_end)], "stop", None
            text = self.tokenizer.decode(ids[len(prompt) :])
            if found := [stop for stop in stops if stop in text]:
                return ids[len(prompt) :], "stop", found[0]
        return ids[len(prompt) :], "length", None

    def spoken(self, prompt: list[int], ids: list[int]) -> str:
        """Return the text that ids add to a prompt, with the space before it."""
        before, whole = (self.tokenizer.decode(part, skip_special_tokens=True) for part in (prompt, [*prompt, *ids]))
        return whole[len(before) :]

    @torch.no_grad()
    def prompt_logprobs(self, prompt: list[int], k: int) -> list[dict[str, Any] | None]:
        """Return the k likeliest tokens in place of each of a prompt, and it, as vLLM tells them."""
        found: list[dict[str, Any] | None] = [None]
        log_p = self.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        for place, token in enumerate(prompt[1:]):
            order = log_p[place].argsort(descending=True).tolist()
            told = dict.fromkeys([*order[:k], token])
            found.append(
                {
                    str(each): {
                        "logprob": float(log_p[place, each]),
                        "rank": order.index(each) + 1,
                        "decoded_token": "?",
                    }
                    for each in told
                }
            )
        return found


@cache
@torch.no_grad()
def next_token(model: PreTrainedModel, ids: tuple[int, ...]) -> int:
    """Kept, for tests ask for the same few texts again and again."""
    return int(model(torch.tensor([ids])).logits[0, -1].argmax())


def is_ids(prompt: Any) -> bool:
    return bool(prompt) and not isinstance(prompt[0], str)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeVllm

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path != "/v1/models" or self.server.listed is None:
            return self.error(404, "nothing here")
        return self.reply(200, {"object": "list", "data": self.server.listed})

    def do_POST(self) -> None:
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            server.bodies.append(body)
            server.heads.append(dict(self.headers))
        try:
            if server.fault is None or not server.fault(self, body):
                self.answer(body)
        finally:
            with server.lock:
                server.at_once -= 1

    def answer(self, body: dict[str, Any]) -> None:
        server, given = self.server, body["prompt"]
        several = isinstance(given, list) and not isinstance(given[0], int)
        prompts = given if several else [given]
        if several and not server.batches:
            return self.error(400, "prompt must be one text or a list of token ids")
        if body["model"] != NAME:
            return self.error(404, f"The model `{body['model']}` does not exist.")
        prompts = [server.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt for prompt in prompts]
        if any(len(prompt) + body["max_tokens"] > LIMIT for prompt in prompts):
            return self.error(400, f"This model's maximum context length is {LIMIT} tokens.")
        with server.lock:
            written = [server.write(prompt, body["max_tokens"], body.get("stop", [])) for prompt in prompts]
        choices = [
            {
                "index": index,
                "text": server.spoken(prompt, ids),
                "logprobs": {"token_logprobs": [-0.5] * len(ids)} if body.get("logprobs") else None,
                "finish_reason": reason,
                "stop_reason": stop,
                "token_ids": ids if body.get("return_token_ids") else None,
                "prompt_token_ids": prompt if body.get("return_token_ids") else None,
            }
            for index, (prompt, (ids, reason, stop)) in enumerate(zip(prompts, written, strict=True))
        ]
        if k := body.get("prompt_logprobs"):
            if k > MOST_LOG_PROBS:
                return self.error(400, f"Requested prompt logprobs of {k}, which is greater than max: {MOST_LOG_PROBS}")
            for choice, prompt in zip(choices, prompts, strict=True):
                choice["prompt_logprobs"] = server.prompt_logprobs(prompt, k)
        read, wrote = sum(map(len, prompts)), sum(len(ids) for ids, *_ in written)
        usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
        answer = {"id": "cmpl-1", "object": "text_completion", "model": NAME, "choices": choices, "usage": usage}
        return self.reply(200, server.change(answer))

    def error(self, code: int, message: str, **headers: str) -> None:
        self.reply(code, {"error": {"message": message, "type": "BadRequestError", "code": code}}, **headers)

    def reply(self, code: int, content: Any, **headers: str) -> None:
        self.send(code, json.dumps(content).encode(), **headers)

    def send(self, code: int, content: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)


FakeVllm.handler = Handler


@contextlib.contextmanager
def fake_vllm(
    model: PreTrainedModel, tokenizer: Tokenizer, kind: type[FakeVllm] = FakeVllm, **settings: Any
) -> Iterator[FakeVllm]:
    server = kind(model, tokenizer, **settings)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def slow(seconds: float) -> Callable[[Handler, dict[str, Any]], bool]:
    """A fault that is none: every answer is late."""

    def wait(handler: Handler, body: dict[str, Any]) -> bool:
        time.sleep(seconds)
        return False

    return wait
