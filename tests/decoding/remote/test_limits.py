"""Limits of requests and of tokens: exact, whatever happens, and kept by the ledger's file."""

import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.decoding.remote.test_faults import FAULTS, break_down, quick
from tests.decoding.tiny import write
from tests.envs.tiny import SOURCES
from tests.marks import spread
from wheels.decoding.methods.method import student_only, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.ledger import Ledger, OverLimit
from wheels.decoding.remote.prices import Prices
from wheels.decoding.trace import TEACHER
from wheels.endpoints.usage import Usage
from wheels.errors import WheelsError

LONG = {"max_new_tokens": 12}
MAXPROB = RULES["maxprob"].at(0.6)


def settings(**limits: Any) -> dict[str, Any]:
    return {"on_error": "continue", **limits}


@pytest.mark.parametrize(("batches", "most"), spread([True, False], [0, 1, 2, 6]))
def test_no_more_requests_than_allowed_are_sent(pair, server, far, most, batches):
    server.batches = batches
    there = far(server, **settings(max_teacher_requests=most))
    traces = write(there, SOURCES, MAXPROB, **LONG)
    listings = most > 0  # the probe lists the models and tries a completion
    assert len(server.bodies) + listings == most, "all that may be sent are needed"
    assert there.remote.ledger.requests == most
    assert any(trace.degraded for trace in traces)
    assert f"max_teacher_requests {most} are sent, and no other may be" in " ".join(there.remote.failures)
    assert all(trace.tokens for trace in traces)


def test_each_new_attempt_is_a_request(server, far):
    there = quick(far, server, timeout=10.0, max_teacher_requests=8)
    before = there.remote.ledger.requests, len(server.bodies)
    break_down(server, FAULTS["5xx"])
    write(there, SOURCES, MAXPROB, **LONG)
    assert there.remote.ledger.requests == 8
    assert len(server.bodies) - before[1] == 8 - before[0], "three attempts for a call"


@pytest.mark.parametrize(("span", "most"), spread(["tokens:1", "tokens:4"], [1, 9, 30]))
def test_the_teacher_writes_no_more_tokens_than_allowed(server, far, span, most):
    there = far(server, **settings(max_teacher_tokens=most, span=span))
    traces = write(there, SOURCES, teacher_only(), budget=1.0, **LONG)
    ledger = there.remote.ledger
    wrote = sum(author == TEACHER for trace in traces for author in trace.authors)
    probe = 2 if most >= 2 else 0
    assert ledger.tokens == wrote + probe and ledger.reserved_tokens == 0
    assert ledger.tokens == (most if probe else 0), "the last call is cut to what is left"
    assert any(trace.degraded for trace in traces) and all(trace.tokens for trace in traces)


def test_without_requests_the_student_writes_alone(pair, server, far):
    traces = write(far(server, **settings(max_teacher_requests=0)), SOURCES, MAXPROB, **LONG)
    alone = write(pair, SOURCES, student_only(), budget=0.0, **LONG)
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in alone]
    assert not server.bodies
    with pytest.raises(WheelsError, match="the teacher failed: max_teacher_requests 1 are sent, and no other may be"):
        far(server, max_teacher_requests=1)


def test_limits_hold_under_32_threads():
    ledger, seen = Ledger(max_requests=700, max_tokens=5000), list[int]()

    def one(number: int) -> int:
        try:
            request = ledger.reserve(10, number % 17)
        except OverLimit:
            return 0
        seen.append(ledger.tokens + ledger.reserved_tokens)
        try:
            ledger.send()
        except OverLimit:
            ledger.release(request)
            return 0
        ledger.settle(request, Usage(1, 10, 0, number % 17))
        return number % 17

    with ThreadPoolExecutor(32) as pool:
        wrote = sum(pool.map(one, range(3000)))
    assert ledger.tokens == wrote and ledger.reserved_tokens == 0 and max(seen) <= 5000
    assert ledger.requests == 700 or ledger.tokens > 5000 - 17


def test_a_file_keeps_requests_and_tokens_over_a_kill(tmp_path):
    path = tmp_path / "limits.jsonl"
    code = f"""
        import os
        from wheels.decoding.remote.ledger import Ledger
        from wheels.endpoints.usage import Usage
        ledger = Ledger(path={str(path)!r}, max_requests=9, max_tokens=100)
        first, second, third = (ledger.reserve(50, 8) for _ in range(3))
        for _ in range(4):
            ledger.send()
        ledger.settle(first, Usage(1, 50, 0, 5))
        ledger.release(second)
        os._exit(9)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 9
    for _ in range(2):
        ledger = Ledger(path=path, max_requests=9, max_tokens=100)
        assert (ledger.requests, ledger.tokens) == (4, 5 + 8), "what was open counts as written, each time"
        ledger.close()
    ledger = Ledger(path=path, max_requests=5, max_tokens=15)
    with pytest.raises(OverLimit, match="max_teacher_tokens 15 has not enough left"):
        ledger.reserve(1, 3)
    ledger.release(ledger.reserve(1, 2))
    ledger.send()
    with pytest.raises(OverLimit, match="max_teacher_requests 5 are sent"):
        ledger.send()
    ledger.close()
    with pytest.raises(WheelsError, match=r"limits.jsonl:1: this ledger was kept without prices"):
        Ledger(Prices(1.0, 1.0), 1.0, path)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()].count("send") == 5


def test_what_a_server_counts_beyond_its_answer_is_counted(server, far):
    there = far(server, **settings(max_teacher_tokens=50))

    def counted(answer: dict[str, Any]) -> dict[str, Any]:
        answer["usage"]["completion_tokens"] += 10  # it thinks before it writes
        return answer

    server.change = counted
    write(there, SOURCES[:1], teacher_only(), budget=1.0, max_new_tokens=3)
    assert there.remote.ledger.tokens == 2 + 3 * 11
