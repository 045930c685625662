"""Clients that leave, queues that fill, servers that end: places come back at once, and every stream has an end."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest

from tests.decoding.serve.harness import SECONDS, Served, served, until
from wheels.decoding.engine import Engine
from wheels.decoding.passes import Passes
from wheels.decoding.serve.worker import Worker


class Gate:
    """Lets the engine take as many steps as it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.open, self.taken = threading.Semaphore(0), False, 0
        step = Engine.step

        def gated(engine: Engine) -> list:
            if not self.open:
                self.steps.acquire()
            self.taken += 1
            return step(engine)

        monkeypatch.setattr(Engine, "step", gated)

    def allow(self, count: int) -> None:
        if count:
            self.steps.release(count)

    def release(self) -> None:
        self.open = True
        self.steps.release(1)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.release()


@pytest.fixture
def small(embedded, gate: Gate) -> Iterator[Served]:
    """Two places in the batch, and two in the queue."""
    with served(embedded, batch_size=2, queue=2) as running:
        yield running
        gate.release()


@contextlib.contextmanager
def streaming(server: Served, **more) -> Iterator[Iterator[str]]:
    """The lines of a stream that is left at the end of the block."""
    with server.http as http, http.stream("POST", "/v1/completions", json=server.body(stream=True, **more)) as answer:
        assert answer.status_code == 200
        yield (line for line in answer.iter_lines() if line)


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_a_client_that_leaves_frees_its_row_within_a_step(small: Served, gate: Gate, steps: int) -> None:
    """Before its first token, and in mid-stream; the step that runs is the last with it."""
    with streaming(small, max_tokens=100) as lines:
        until(lambda: small.service.texts == 1)
        gate.allow(steps)
        for _ in range(steps // 2):
            assert json.loads(next(lines).removeprefix("data: "))["choices"]
        until(lambda: gate.taken == steps)
    until(lambda: small.service.texts == 0)
    gate.allow(1)
    until(small.idle)
    assert gate.taken <= steps + 1, "no step, and so no call of the teacher, after it has left"
    assert small.service.metrics.counters["disconnects"] == {"": 1}


def test_a_client_that_leaves_the_queue_is_never_written(small: Served, gate: Gate, monkeypatch) -> None:
    seen = []
    admit = Passes.admit
    monkeypatch.setattr(Passes, "admit", lambda self, slots, rows: seen.extend(rows) or admit(self, slots, rows))
    with streaming(small, n=3, temperature=1.0, max_tokens=30) as lines:
        until(lambda: small.service.texts == 3)
        with streaming(small, max_tokens=31):
            until(lambda: small.service.texts == 4)
        until(lambda: small.service.texts == 3)
        gate.release()
        assert list(lines)[-1] == "data: [DONE]"
    until(small.idle)
    assert sorted(row.limit for row in seen) == [30, 30, 30]


def test_a_whole_answer_that_nobody_waits_for_is_given_up(small: Served, gate: Gate) -> None:
    address = ("127.0.0.1", int(small.url.rpartition(":")[2]))
    body = json.dumps(small.body(max_tokens=100)).encode()
    with socket.create_connection(address) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: small.service.texts == 1)
    until(lambda: small.service.texts == 0)
    gate.allow(1)
    until(small.idle)
    assert gate.taken <= 1


def test_a_full_queue_says_when_to_come_back(small: Served, gate: Gate) -> None:
    with streaming(small, n=4, temperature=1.0, max_tokens=5) as lines:
        until(lambda: small.service.texts == 4)
        answer = small.post(small.body())
        assert answer.status_code == 429 and answer.json()["error"]["code"] == "queue_full"
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        with pytest.raises(openai.RateLimitError, match="4 texts wait or are being written, and 4 are taken"):
            small.client.completions.create(model=small.service.name, prompt="a")
        gate.release()
        assert list(lines)[-1] == "data: [DONE]"
    until(small.idle)
    assert small.post(small.body(max_tokens=2)).status_code == 200
    assert small.service.metrics.counters["refused"] == {"": 2}


def test_the_wait_follows_from_the_pace(small: Served) -> None:
    service = small.service
    service.ends.extend(time.perf_counter() - back for back in (8.0, 6.0, 4.0, 2.0))
    service.texts = 4
    assert 4 <= service.retry_after() <= 5, "two wait, at two seconds each"
    service.texts = 1000
    assert service.retry_after() == 60
    service.texts = 0


def test_a_server_that_drains_finishes_what_was_begun(small: Served, gate: Gate) -> None:
    with streaming(small, max_tokens=30) as lines:
        until(lambda: small.service.texts == 1)
        small.service.drain()
        with small.http as http:
            assert http.get("/health/ready").status_code == 503 and http.get("/health/live").status_code == 200
        answer = small.post(small.body())
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        gate.release()
        *parts, last = [line.removeprefix("data: ") for line in lines]
    assert last == "[DONE]" and json.loads(parts[-1])["choices"][0]["finish_reason"] == "stop"
    until(small.idle)


def test_a_server_that_aborts_ends_every_stream_with_an_event(small: Served, gate: Gate) -> None:
    whole: list[httpx2.Response] = []
    waiting = threading.Thread(target=lambda: whole.append(small.post(small.body(max_tokens=50))))
    with streaming(small, max_tokens=100) as first, streaming(small, max_tokens=100) as second:
        waiting.start()
        until(lambda: small.service.texts == 3)
        small.service.abort()
        gate.release()
        for lines in (first, second):
            *_, error, last = [line.removeprefix("data: ") for line in lines]
            assert last == "[DONE]" and "the server was stopped" in json.loads(error)["error"]["message"]
    waiting.join(SECONDS)
    assert whole[0].status_code == 503
    until(small.idle)


def test_a_failure_in_the_engine_is_told_and_the_next_request_is_served(small: Served, gate: Gate, monkeypatch) -> None:
    """A stream says so in an event, a whole answer by its status; nothing of the fault shows."""
    gate.release()
    read = Passes.read_student

    def failing(self, slots, slots_R):
        raise RuntimeError("a secret of the machine")

    monkeypatch.setattr(Passes, "read_student", failing)
    with streaming(small) as lines:
        error, last = [line.removeprefix("data: ") for line in lines]
    assert last == "[DONE]" and json.loads(error)["error"]["code"] == "engine_failure" and "secret" not in error
    answer = small.post(small.body())
    assert answer.status_code == 500 and "secret" not in answer.text
    monkeypatch.setattr(Passes, "read_student", read)
    assert small.post(small.body(max_tokens=3)).status_code == 200
    assert small.service.metrics.counters["failures"] == {"": 2}


def test_ways_of_decoding_take_turns_and_more_of_them_wait(embedded, gate: Gate, monkeypatch) -> None:
    """Two engines for three ways: the third waits until one of the others is idle, and is then served."""
    submitted = []
    submit = Worker.submit
    monkeypatch.setattr(Worker, "submit", lambda self, job: submitted.append(submit(self, job)))
    with served(embedded, batch_size=4, engines=2) as few:
        bodies = [few.body(max_tokens=30, teacher_budget=budget) for budget in (0.1, 0.3, 0.5)]
        answers: list[httpx2.Response] = []
        threads = [threading.Thread(target=lambda body=body: answers.append(few.post(body))) for body in bodies]
        for count, thread in enumerate(threads, 1):
            thread.start()
            until(lambda count=count: len(submitted) == count)
            gate.allow(2)  # a step of each engine that may be busy: after them the worker obeys
        worker = few.service.worker
        # A job is unplaced while its engine is being made, too, and there is one less then: both have to be seen.
        until(
            lambda: len(worker.unplaced) == 1 and [each.engine.busy for each in [*worker.lanes.values()]] == [True] * 2
        )
        gate.release()
        for thread in threads:
            thread.join(SECONDS)
        assert [answer.status_code for answer in answers] == [200] * 3
        until(few.idle)
        assert len(worker.lanes) == 2


def test_a_server_whose_engine_has_ended_says_so(small: Served, gate: Gate) -> None:
    with small.http as http:
        assert http.get("/health").json() == {"live": True, "ready": True}
        small.service.worker.close()
        small.service.worker.join(SECONDS)
        for path in ("/health", "/health/live", "/health/ready"):
            assert http.get(path).status_code == 500
