"""A teacher behind an address writes what the same teacher writes here, token for token."""

from contextlib import closing
from typing import Any

import pytest

from tests.decoding.remote.fake_vllm import NAME, fake_vllm, slow
from tests.decoding.tiny import write
from tests.envs.tiny import SOURCES
from tests.marks import spread
from wheels.decoding.methods.method import student_only, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.teacher import WORKERS, RemoteTeacher
from wheels.decoding.sampling import Sampling

MAXPROB, RANDOM = RULES["maxprob"].at(0.6), RULES["random"]
HOW: dict[str, tuple[Any, dict[str, Any]]] = {
    "where the student is in doubt": (MAXPROB, {}),
    "at random": (RANDOM, {"budget": 0.4}),
    "at even gaps": (RULES["every-k"], {"budget": 0.5}),
    "a budget that no prefix exceeds": (MAXPROB, {"budget": 0.3, "mode": "strict"}),
    "a threshold that moves": (RANDOM, {"budget": 0.4, "mode": "online"}),
    "the teacher alone": (teacher_only(), {"budget": 1.0}),
    "the student alone": (student_only(), {"budget": 0.0}),
    "a budget for each text": (RANDOM, {"budget": [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]}),
}
LONG = {"max_new_tokens": 12}


@pytest.mark.slow
@pytest.mark.parametrize(("how", "batch_size"), spread(HOW, [1, 4]))
def test_every_token_is_that_of_the_teacher_at_hand(pair, server, far, how, batch_size):
    method, settings = HOW[how]
    settings = settings | LONG | {"batch_size": batch_size}
    here, there = write(pair, SOURCES, method, **settings), write(far(server), SOURCES, method, **settings)
    assert [trace.token_ids for trace in there] == [trace.token_ids for trace in here]
    assert [trace.authors for trace in there] == [trace.authors for trace in here]
    for name in ("teacher_passes", "teacher_positions", "prompt_positions", "finished"):
        assert [getattr(trace, name) for trace in there] == [getattr(trace, name) for trace in here], name
    assert not any(trace.degraded for trace in there)
    assert sum(len(body["prompt"]) for body in server.asked) == sum(trace.teacher_passes for trace in there)
    if how not in ("the student alone",):
        assert any(trace.teacher_tokens for trace in there)


def test_texts_that_call_share_a_request_and_their_prefixes_only_grow(pair, server, far):
    traces = write(far(server), SOURCES, MAXPROB, **LONG)
    widths = [len(body["prompt"]) for body in server.asked]
    assert max(widths) > 1 and len(widths) < sum(trace.teacher_passes for trace in traces)
    for source, trace in zip(pair.encode(SOURCES), traces, strict=True):
        whole = [*source, *trace.token_ids]
        sent = [prompt for body in server.asked for prompt in body["prompt"] if prompt[: len(source)] == source]
        own = [prompt for prompt in sent if prompt == whole[: len(prompt)]]
        assert len(own) >= trace.teacher_passes


@pytest.mark.parametrize("batches", [True, False])
def test_a_server_that_takes_one_text_is_asked_over_a_pool(pair, far, batches):
    with fake_vllm(pair.teacher, pair.tokenizer, batches=batches) as server:
        there = far(server)
        server.fault = slow(0.02)
        assert there.probe.batches is batches
        traces = write(there, SOURCES * 2, teacher_only(), budget=1.0, **LONG)
        assert server.most_at_once == 1 if batches else 2 <= server.most_at_once <= WORKERS
    assert [trace.token_ids for trace in traces] == [
        trace.token_ids for trace in write(pair, SOURCES * 2, teacher_only(), budget=1.0, **LONG)
    ]


def test_an_end_token_that_the_server_keeps_to_itself_ends_the_text(pair, far):
    with fake_vllm(pair.teacher, pair.tokenizer, shows_end=False) as server:
        traces = write(far(server), SOURCES, teacher_only(), budget=1.0, **LONG)
    here = write(pair, SOURCES, teacher_only(), budget=1.0, **LONG)
    assert any(trace.finished for trace in here)
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in here]


@pytest.mark.slow
def test_draws_have_a_seed_of_their_own_for_each_text_and_position(server, far):
    settings: dict[str, Any] = {"sampling": Sampling(0.7, top_p=0.9), "seed": 5, **LONG}
    write(far(server), SOURCES, MAXPROB, **settings)
    assert {(body["temperature"], body["top_p"], len(body["prompt"])) for body in server.asked} == {(0.7, 0.9, 1)}
    seeds = {tuple(body["prompt"][0]): body["seed"] for body in server.asked}
    assert len(set(seeds.values())) == len(seeds) > len(SOURCES)
    again = len(server.bodies)
    write(far(server), SOURCES, MAXPROB, batch_size=2, **settings)
    found = {tuple(body["prompt"][0]): body["seed"] for body in server.bodies[again:] if "seed" in body}
    assert found == seeds, "whatever the batch"


def test_the_key_is_sent_and_connections_end(pair, server, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-SECRET1234")
    with closing(RemoteTeacher(server.url, NAME, key_variable="TEACHER_KEY", on_error="stop")) as teacher:
        write(RemotePair(pair.student, teacher, pair.tokenizer), SOURCES, MAXPROB, **LONG)
        assert {head["Authorization"] for head in server.heads} == {"Bearer sk-SECRET1234"}
    assert teacher.client._loop.is_closed() and not teacher.client._thread.is_alive()
