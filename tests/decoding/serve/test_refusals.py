"""What cannot be served is refused with OpenAI's error object, never a 500, and the next request is served."""

import json
import random

import httpx2
import openai
import pytest

from tests.decoding.serve.harness import SECONDS, TEXTS, Served, served, until

TOO_LONG = TEXTS[0] * 40
"""Longer than the context."""
BODIES = {
    "no JSON": (b"{", 400, None, "not JSON"),
    "nothing": (b"", 400, None, "not JSON"),
    "a list": (b"[]", 400, None, r"must be a JSON object, got \[\]"),
    "null": (b"null", 400, None, "must be a JSON object, got None"),
    "bytes": (b"\xff\xfe", 400, None, "not UTF-8"),
    "deep": (b"[" * 50_000, 400, None, "nested too deeply"),
    "a long number": (b'{"n": ' + b"9" * 5000 + b"}", 400, None, "not JSON that can be read"),
    "nan": (b'{"temperature": NaN}', 400, None, "NaN"),
    "half a pair": (b'{"prompt": "\\ud800"}', 400, None, "half a surrogate pair"),
    "no model": ({"model": None}, 400, "model", "model: input should be a valid string, got None"),
    "another model": ({"model": "gpt-9"}, 404, "model", "'gpt-9' does not exist; this server has 'embedded-translat"),
    "no prompt": ({"prompt": None}, 400, "prompt", "prompt: "),
    "an empty prompt": ({"prompt": ""}, 400, "prompt", "prompt is empty; give it some text"),
    "spaces": ({"prompt": " \n"}, 400, "prompt", "prompt is empty"),
    "no prompts": ({"prompt": []}, 400, "prompt", "prompt is empty"),
    "an empty one": ({"prompt": ["a", ""]}, 400, "prompt", "prompt is empty"),
    "no ids": ({"prompt": [[]]}, 400, "prompt", "prompt is empty; give it some token ids"),
    "wild ids": ({"prompt": [3, 10**6]}, 400, "prompt", "token id 1000000; the models have ids below"),
    "negative ids": ({"prompt": [-1]}, 400, "prompt", "prompt: "),
    "mixed": ({"prompt": ["a", 1]}, 400, "prompt", "prompt: "),
    "a long prompt": ({"prompt": TOO_LONG}, 400, "prompt", "tokens, and at most 256 are read; shorten it"),
    "many texts": ({"prompt": ["a"] * 20, "n": 2}, 400, "n", "20 prompts with n 2 are more texts than the 24"),
    "max_tokens 0": ({"max_tokens": 0}, 400, "max_tokens", "max_tokens 0 is for it alone"),
    "max_tokens -1": ({"max_tokens": -1}, 400, "max_tokens", "greater than or equal to 0, got -1"),
    "max_tokens huge": ({"max_tokens": 10**12}, 400, "max_tokens", "at most 200 can be written, got max_tokens 10000"),
    "max_tokens text": ({"max_tokens": "9"}, 400, "max_tokens", "max_tokens: input should be a valid integer, got '9'"),
    "max_tokens 1.5": ({"max_tokens": 1.5}, 400, "max_tokens", "max_tokens: "),
    "temperature -1": ({"temperature": -1}, 400, "temperature", "greater than or equal to 0, got -1"),
    "temperature hot": ({"temperature": 2.1}, 400, "temperature", "less than or equal to 2, got 2.1"),
    "temperature true": ({"temperature": True}, 400, "temperature", "temperature: "),
    "top_p 0": ({"top_p": 0}, 400, "top_p", "greater than 0, got 0"),
    "n 0": ({"n": 0}, 400, "n", "greater than or equal to 1, got 0"),
    "seed": ({"seed": 2**63}, 400, "seed", "seed: "),
    "stops": ({"stop": ["a"] * 5}, 400, "stop", "stop must be up to 4 texts"),
    "an empty stop": ({"stop": ""}, 400, "stop", None),
    "logprobs": ({"logprobs": 6}, 400, "logprobs", "less than or equal to 5, got 6"),
    "logprobs of drafts": ({"logprobs": 1, "method": "verified"}, 400, "logprobs", "kept by method 'deferral'"),
    "stream options": ({"stream_options": {}}, 400, "stream_options", "is for a stream"),
    "echo of a source": ({"echo": True}, 400, "echo", "echo is for causal models"),
    "echo in a stream": ({"echo": True, "stream": True}, 400, "echo", "is for a whole answer after a prompt"),
    "penalty": ({"presence_penalty": 0.5}, 400, "presence_penalty", "does not do presence_penalty"),
    "best_of": ({"best_of": True}, 400, "best_of", "does not do best_of"),
    "an unknown field": ({"teacher_budgets": 0.2}, 400, "teacher_budgets", "did you mean 'teacher_budget'"),
    "budget 1.5": ({"teacher_budget": 1.5}, 400, "teacher_budget", "less than or equal to 1, got 1.5"),
    "budget text": ({"teacher_budget": "20%"}, 400, "teacher_budget", "teacher_budget: "),
    "a budget that is not calibrated": ({"teacher_budget": 0.9, "rule": "entropy"}, 400, None, "0.9"),
    "a budget of drafts": ({"teacher_budget": 0.5, "method": "speculative"}, 400, None, "keeps no teacher budget"),
    "a rule of drafts": ({"rule": "random", "method": "speculative"}, 400, "rule", "asks no rule; leave it out"),
    "strict drafts": ({"budget_mode": "strict", "method": "verified"}, 400, None, "strict mode cannot"),
    "a rule": ({"rule": "lerned"}, 400, "rule", "did you mean 'learned'"),
    "a rule of the client's own": ({"rule": "/etc/passwd.py:rule"}, 400, "rule", "rule must be one of learned"),
    "a method": ({"method": "magic"}, 400, "method", "method must be one of deferral, .*, got 'magic'"),
    "a mode": ({"budget_mode": "loose"}, 400, "budget_mode", "budget_mode must be one of average"),
    "messages": ({"messages": []}, 400, "messages", "unknown field 'messages'"),
}  # fmt: skip


def send(server: Served, body: object, path: str = "/v1/completions") -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with server.http as http:
        return http.post(path, content=content, headers={"Content-Type": "application/json"})


def is_error(answer: httpx2.Response, status: int) -> dict:
    """Whether an answer is OpenAI's error object, and nothing of ours shows."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"]
    assert "Traceback" not in answer.text and len(answer.text) < 3000
    return error


@pytest.mark.parametrize("name", BODIES)
def test_a_malformed_request_is_refused_and_the_next_is_served(server: Served, name: str) -> None:
    body, status, param, message = BODIES[name]
    error = is_error(send(server, body if isinstance(body, bytes) else server.body() | body), status)
    assert error["param"] == param
    if message is not None:
        import re

        assert re.search(message, error["message"]), error["message"]
    assert send(server, server.body(max_tokens=1)).status_code == 200
    until(server.idle)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"prompt": "a"}, "prompt"),
    ],
)
def test_a_malformed_chat_is_refused(server: Served, change: dict, param: str) -> None:
    chat = {"model": server.service.name, "messages": [{"role": "user", "content": TEXTS[0]}]}
    assert is_error(send(server, chat | change, "/v1/chat/completions"), 400)["param"] == param


def test_the_official_client_raises_its_own_errors(server: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        server.client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError, match="max_tokens 0 is for it alone"):
        server.client.completions.create(model=server.service.name, prompt="a", max_tokens=0)


def test_other_paths_methods_and_types(server: Served) -> None:
    with server.http as http:
        is_error(http.get("/v2"), 404)
        is_error(http.get("/v1/models/other"), 404)
        is_error(http.get("/v1/completions"), 405)
        is_error(http.post("/v1/completions", content=b"{}"), 415)
        is_error(http.post("/v1/completions", data={"model": "a"}), 415)
        is_error(http.get("/v1/models", headers={"Host": "evil.example"}), 403)
        assert http.get("/v1/models", headers={"Host": "localhost:80"}).status_code == 200
        assert "access-control-allow-origin" not in http.get("/v1/models", headers={"Origin": "http://a.b"}).headers
        assert http.get("/openapi.json").json()["paths"]["/v1/completions"]["post"]["requestBody"]["required"]


@pytest.mark.parametrize("size", [(1 << 16) + 1, 10 << 20])
def test_a_large_body_is_refused_before_it_is_read_as_json(server: Served, size: int) -> None:
    body = json.dumps(server.body(prompt="a" * size)).encode()
    assert is_error(send(server, body), 413)["code"] == "body_too_large"
    assert server.post(server.body(max_tokens=1)).status_code == 200


def test_a_body_that_ends_early_or_has_no_length(server: Served) -> None:
    def chunks():
        yield json.dumps(server.body(max_tokens=1)).encode()

    with server.http as http:
        assert (
            http.post("/v1/completions", content=chunks(), headers={"Content-Type": "application/json"}).status_code
            == 200
        )

        def endless():
            for _ in range(200):
                yield b" " * 1000

        is_error(http.post("/v1/completions", content=endless(), headers={"Content-Type": "application/json"}), 413)
    until(server.idle)


def test_a_key_opens_and_nothing_else_does(embedded, caplog) -> None:
    with served(embedded, key="sesame-0123456789", batch_size=4) as locked:
        assert locked.client.models.list().data
        for header in ({}, {"Authorization": "Bearer sesame"}, {"Authorization": "sesame-0123456789"},
                       {"Authorization": "Bearer sesame-0123456789x"}):  # fmt: skip
            with httpx2.Client(base_url=locked.url, timeout=SECONDS, headers=header) as http:
                for path in ("/v1/models", "/metrics", "/openapi.json", "/v2"):
                    error = is_error(http.get(path), 401)
                    assert error["code"] == "invalid_api_key" and "sesame" not in str(error)
                is_error(http.post("/v1/completions", json=locked.body()), 401)
                assert http.get("/health").status_code == http.get("/health/live").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong").models.list()
    assert "sesame" not in caplog.text


VALUES = [
    None, True, False, 0, 1, -1, 2, 5, 0.2, 1.5, 1e308, -1e308, 2**31, 2**63, "", "a", "\x00", "\N{OGHAM SPACE MARK}",
    "Die Kinder", "x" * 300, [], [[]], [None], ["a"], [1, 2], [[3]], {}, {"a": 1}, {"include_usage": True}, [{}],
    [{"role": "user", "content": "a"}], "deferral", "verified", "strict", "random", "embedded-translation",
]  # fmt: skip


def fuzzed(rng: random.Random, names: list[str]) -> bytes:
    """A body that is nearly right, or not at all."""
    body = {"model": "embedded-translation", "prompt": "Die Kinder", "max_tokens": 2}
    for _ in range(rng.randint(0, 3)):
        body[rng.choice(names)] = rng.choice(VALUES)
    content = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    kind = rng.random()
    if kind < 0.1:
        return content[: rng.randrange(len(content))]
    if kind < 0.2:
        place = rng.randrange(len(content))
        return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    if kind < 0.25:
        return json.dumps(rng.choice(VALUES)).encode()
    return content


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_no_body_makes_the_server_fail(server: Served, path: str) -> None:
    """300 bodies, each wrong in another way: 200 or 4xx, and each refusal is an error object."""
    from wheels.decoding.serve.bodies import NEUTRAL, ChatBody, CompletionBody

    names = [*CompletionBody.model_fields, *ChatBody.model_fields, *NEUTRAL, "surprise"]
    rng, statuses = random.Random(7), set()
    with server.http as http:
        for _ in range(150):
            body = fuzzed(rng, names)
            answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
            statuses.add(answer.status_code)
            if answer.status_code != 200:
                assert 400 <= answer.status_code < 500, (body, answer.text)
                is_error(answer, answer.status_code)
            else:
                assert b"error" not in answer.content, (body, answer.text)
    assert statuses >= ({200, 400} if path == "/v1/completions" else {400})
    until(server.idle)
    assert server.post(server.body(max_tokens=1)).status_code == 200
