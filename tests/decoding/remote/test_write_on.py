"""The student writes on while an answer is under way: texts are what they would be if it waited."""

import random
import threading
from typing import Any

import pytest

from tests.decoding.remote.fake_vllm import NAME, FakeVllm, fake_vllm, slow
from tests.decoding.tiny import method_of, write
from tests.envs.tiny import SOURCES
from wheels.decoding.engine import Engine
from wheels.decoding.methods.method import deferral, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.decoding.remote.breaker import Breaker
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.protocol import Answer, TextSoFar
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.sampling import Sampling
from wheels.decoding.sequences import prepare_sequences
from wheels.decoding.trace import Trace
from wheels.errors import WheelsError
from wheels.models.pair import Pair

pytestmark = pytest.mark.slow

LONG = {"max_new_tokens": 12}
MAXPROB, RANDOM = RULES["maxprob"].at(0.6), RULES["random"]
WAYS: list[tuple[str, Any, dict[str, Any]]] = [
    ("tokens:1", MAXPROB, {"batch_size": 1}),
    ("tokens:1", MAXPROB, {"batch_size": 3}),
    ("tokens:1", MAXPROB, {"batch_size": 1, "sampling": Sampling(0.8)}),
    ("tokens:1", RANDOM, {"budget": 0.5, "mode": "strict", "batch_size": 4}),
    ("tokens:1", RANDOM, {"budget": 0.5, "mode": "online", "batch_size": 1}),
    ("tokens:4", RANDOM, {"budget": 0.4, "mode": "online", "batch_size": 1}),
    ("tokens:3", RANDOM, {"budget": 0.4, "mode": "online", "batch_size": 3}),
    ("tokens:4", teacher_only(), {"budget": 1.0, "batch_size": 3}),
]


def what(traces: list[Trace]) -> list[tuple[Any, ...]]:
    return [
        (trace.token_ids, trace.authors, trace.teacher_passes, trace.teacher_positions, trace.degraded, trace.finished)
        for trace in traces
    ]


def late(server: FakeVllm, most: float = 0.02) -> None:
    """Let every answer take another time, the same in no two runs."""
    draw = random.Random()
    server.fault = lambda handler, body: slow(draw.uniform(0, most))(handler, body)


@pytest.mark.parametrize(("span", "rule", "settings"), WAYS)
def test_texts_are_the_same(server, far, span, rule, settings):
    waiting = write(far(server, span=span, write_on=False), SOURCES, rule, **settings, **LONG)
    late(server)
    there = far(server, span=span)
    for _ in range(2):
        assert what(write(there, SOURCES, rule, **settings, **LONG)) == what(waiting)


@pytest.mark.parametrize(("span", "settings"), [("tokens:1", {}), ("tokens:3", {"budget": 0.4, "mode": "online"})])
def test_a_teacher_that_writes_what_the_student_does_is_never_waited_for(pair, far, monkeypatch, span, settings):
    monkeypatch.setattr("wheels.decoding.methods.online.RATE", 0.5)  # so that each count decides
    twin = Pair.of(pair.student, pair.student, pair.tokenizer)
    with fake_vllm(twin.teacher, twin.tokenizer) as server:
        server.fault = slow(0.06)
        rule = RANDOM if settings else MAXPROB
        there = far(server, span=span)
        traces = write(there, SOURCES, rule, batch_size=1, **settings, **LONG)
        waiting = write(far(server, span=span, write_on=False), SOURCES, rule, batch_size=1, **settings, **LONG)
    assert what(traces) == what(waiting)
    calls = sum(trace.teacher_passes for trace in traces)
    assert calls and sum(trace.guessed for trace in traces) == pytest.approx(calls, abs=0.2 * calls)
    if span == "tokens:1":
        assert [trace.student_passes for trace in traces] == [trace.student_passes for trace in waiting]
    assert not any(trace.guessed for trace in waiting)


@pytest.mark.parametrize(("span", "rule", "settings"), WAYS[:2] + WAYS[5:6])
def test_where_the_teacher_does_not_answer_the_first_guess_stands(server, far, span, rule, settings):
    found = []
    for write_on in (False, True):
        server.fault = None
        teacher = {"attempts": 1, "write_on": write_on, "breaker": Breaker(10**6), "on_error": "continue"}
        there = far(server, span=span, **teacher)
        server.fault = refuse
        found.append(what(write(there, SOURCES, rule, **settings, **LONG)))
    assert found[0] == found[1] and any(text[4] for text in found[0])


def refuse(handler: Any, body: dict[str, Any]) -> bool:
    """Answer no text that has an odd number of tokens."""
    if any(len(prompt) % 2 for prompt in body["prompt"]):
        handler.error(400, "another time")
        return True
    return slow(0.01)(handler, body)


@pytest.fixture
def held(server, far):
    """A teacher whose answers come when the event is set."""
    there, event = far(server), threading.Event()
    server.fault = lambda handler, body: not event.wait(10)
    yield there, event
    event.set()


def engine_of(there: RemotePair, sources: list[str]) -> Engine:
    params = DecodeParams(**LONG)
    return Engine(there, prepare_sequences(there, sources, 12), deferral(MAXPROB), params, batch_size=1)


def test_what_is_guessed_does_not_stand_yet(held):
    there, event = held
    engine = engine_of(there, SOURCES[:1])
    text = engine.waiting[0]
    seen = []
    while not engine.ahead.calls or engine.running:
        engine.step()
        seen.append((len(text.tokens), engine.final(text)))
    called = engine.final(text)
    assert len(text.tokens) > called and text.by_teacher[called]
    event.set()
    (ended,) = engine.run()
    assert ended.teacher_passes and engine.final(ended) == len(ended.tokens)
    assert seen == sorted(seen), "what stands is never taken back"


def test_a_text_that_nobody_waits_for_leaves_no_answer_to_the_next(held, pair):
    there, event = held
    engine = engine_of(there, SOURCES[:2])
    first = engine.waiting[0]
    while not engine.ahead.calls:
        engine.step()
    engine.cancel(first)
    assert not engine.ahead.calls and not engine.ahead.first
    event.set()
    (ended,) = engine.run()
    alone = write(pair, SOURCES[:2], MAXPROB, **LONG)
    assert tuple(ended.tokens) == alone[ended.index].token_ids


def test_an_error_that_is_to_stop_everything_does(server, far):
    there = far(server, attempts=1)
    server.fault = lambda handler, body: handler.error(500, "oops") or True
    with pytest.raises(WheelsError, match="the teacher failed: "):
        write(there, SOURCES, MAXPROB, **LONG)


def test_a_caller_who_stops_texts_himself_sees_no_guess(server, far):
    seen = []
    there = far(server)
    params = DecodeParams(stopping=lambda row, tokens: seen.append(list(tokens)) or len(tokens) >= 5, **LONG)
    engine = Engine(there, prepare_sequences(there, SOURCES, 12), method_of(MAXPROB), params, batch_size=2)
    assert engine.ahead.passes is None and all(len(text.tokens) <= 5 for text in engine.run()) and seen


def test_one_call_tries_a_server_that_was_left_alone(pair, server):
    now = [0.0]
    teacher = RemoteTeacher(server.url, NAME, attempts=1, breaker=Breaker(1, clock=lambda: now[0]))
    there = RemotePair(pair.student, teacher, pair.tokenizer)
    server.fault = lambda handler, body: slow(0.05)(handler, body) or handler.error(500, "oops") or True
    write(there, SOURCES[:1], MAXPROB, **LONG)
    now[0], before = 1000.0, len(server.bodies)
    texts = [TextSoFar(source, (), 12) for source in pair.encode(SOURCES)]
    for answers in [teacher.later([text], Sampling()) for text in texts]:
        assert answers.result() == [Answer()]
    assert len(server.bodies) == before + 1
    teacher.close()
