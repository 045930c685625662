"""SGLang and llama.cpp as teachers: their own fields, and the very tokens of the teacher at hand."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.decoding.remote.conftest import Far
from tests.decoding.remote.fake_native import FakeLlamaServer, FakeSglang
from tests.decoding.remote.fake_vllm import LIMIT, NAME, FakeVllm, fake_vllm
from tests.decoding.tiny import write
from tests.envs.tiny import SOURCES
from tests.marks import spread
from wheels.decoding.methods.method import teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.prices import Prices
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.sampling import Sampling
from wheels.endpoints.dialects import dialect_of, teacher_url
from wheels.errors import WheelsError

MAXPROB = RULES["maxprob"].at(0.6)
LONG: dict[str, Any] = {"max_new_tokens": 12}
KINDS = {"sglang": FakeSglang, "llamacpp": FakeLlamaServer}
HOW: dict[str, tuple[Any, dict[str, Any]]] = {
    "where the student is in doubt": (MAXPROB, {}),
    "a threshold that moves": (RULES["random"], {"budget": 0.4, "mode": "online"}),
    "the teacher alone": (teacher_only(), {"budget": 1.0}),
}


@pytest.fixture(params=KINDS)
def native(request: Any, pair: Any) -> Iterator[FakeVllm]:
    with fake_vllm(pair.teacher, pair.tokenizer, KINDS[request.param]) as running:
        yield running


def widths(server: FakeVllm) -> list[int]:
    """How many texts each request after the probe had."""
    sent = [body.get("input_ids", body.get("prompt")) for body in server.bodies[1:] if "text" not in body]
    return [len(prompt) if isinstance(prompt[0], list) else 1 for prompt in sent]


@pytest.mark.parametrize(("how", "batches"), spread(HOW, [True, False]))
def test_every_token_is_that_of_the_teacher_at_hand(pair, far: Far, native, how, batches):
    method, settings = HOW[how]
    native.batches = batches
    here, there = (write(each, SOURCES, method, **settings | LONG) for each in (pair, far(native)))
    assert [trace.token_ids for trace in there] == [trace.token_ids for trace in here]
    assert [trace.authors for trace in there] == [trace.authors for trace in here]
    assert sum(trace.teacher_passes for trace in there) == sum(trace.teacher_passes for trace in here) > 0
    assert not any(trace.degraded for trace in there)
    assert (max(widths(native)[1:]) > 1) is batches, "one request for several"


def test_what_is_there_is_known_after_one_request(far: Far, native):
    probe = far(native).probe
    assert str(probe) == f"{NAME} ({probe.server}): token ids, log-probabilities, several texts a request, " + (
        f"{LIMIT} tokens of context"
    )
    assert probe.server == native.listing["owned_by"] and len(native.bodies) == 1
    assert probe.usage.completion == 2 and probe.usage.cached == probe.usage.prompt - 2


def test_another_model_is_refused_and_another_tokenizer_is_asked_in_words(pair, far: Far, native):
    with pytest.raises(WheelsError, match=r"has no model 'big/teachr': is 'big/teachr' its name\?; did you mean"):
        RemotePair(pair.student, RemoteTeacher(native.url, "big/teachr"), pair.tokenizer)

    def other(answer):
        for row in answer:
            if "prompt" in row:
                row["prompt"] = row["prompt"][::-1]
            for told in row.get("meta_info", {}).get("input_token_logprobs", []):
                told[1] = max(3, (told[1] * 5) % 14)
        return answer

    native.change = other
    there = far(native)
    assert "has another tokenizer than the student" in there.probe.difference and there.by_text
    traces = write(there, SOURCES, teacher_only(), budget=1.0, max_new_tokens=2)
    assert all(trace.teacher_tokens == trace.tokens > 0 for trace in traces)


def test_a_stop_text_ends_a_call_and_not_the_text(pair, far: Far, native):
    pair_there = far(native, span="sentence")
    stops = ("c", "f", "i", "l")
    pair_there.remote.span = type(pair_there.remote.span)(5, stops)
    traces = write(pair_there, SOURCES, teacher_only(), budget=1.0, **LONG)
    here = write(pair, SOURCES, teacher_only(), budget=1.0, **LONG)
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in here]
    assert any(trace.finished for trace in traces) and sum(trace.teacher_passes for trace in traces) < sum(
        trace.teacher_passes for trace in here
    )


def test_draws_are_asked_for_in_the_servers_own_words(far: Far, native):
    write(far(native), SOURCES, MAXPROB, sampling=Sampling(0.7, top_p=0.9, top_k=3), seed=5, **LONG)
    sent = [body.get("sampling_params", body) for body in native.bodies[1:]]
    assert {(each["temperature"], each["top_p"], each["top_k"]) for each in sent} == {(0.7, 0.9, 3)}
    assert len({each.get("sampling_seed", each.get("seed")) for each in sent}) > len(SOURCES)
    write(far(native), SOURCES, MAXPROB, **LONG)
    greedy = native.bodies[-1].get("sampling_params", native.bodies[-1])
    assert greedy["temperature"] == 0.0 and greedy.get("repetition_penalty", 1.0) == 1.0


def test_the_bill_has_what_the_server_found_in_its_cache(far: Far, native):
    there = far(native, prices=Prices(1.0, 2.0, cached=0.5))
    traces = write(there, SOURCES, MAXPROB, **LONG)
    read, cached = (sum(getattr(trace.bill.usage, name) for trace in traces) for name in ("prompt", "cached"))
    passes = sum(trace.teacher_passes for trace in traces)
    assert passes > 5 and cached == pytest.approx(read - passes), "all but one token of each prompt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda answer: [], "an answer that is no JSON object"),
        (lambda answer: 3, "an answer that is no JSON object"),
        (lambda answer: {"error": {"message": "out of memory"}}, "out of memory"),
        (lambda answer: [answer] if isinstance(answer, dict) else answer[:-1], ""),
        (lambda answer: changed(answer, "output_ids", "tokens", ["a"]), "answers without token ids"),
        (lambda answer: changed(answer, "output_ids", "tokens", [99]), "token id 99"),
        (lambda answer: ended(answer), "ends a text with 'abort'"),
    ],
)
def test_an_answer_that_cannot_be_used_leaves_the_text_to_the_student(pair, far: Far, native, change, told):
    there = far(native, on_error="continue", attempts=1)
    native.change = change
    traces = write(there, SOURCES, MAXPROB, **LONG)
    alone = write(pair, SOURCES, RULES["maxprob"].at(-1.0), budget=0.0, **LONG)
    if told:
        assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in alone]
        assert any(told in reason for reason in there.remote.failures), there.remote.failures
    assert sum(trace.degraded for trace in traces) > 0 or not told


def changed(answer: Any, *names: Any) -> Any:
    *keys, value = names
    for row in answer if isinstance(answer, list) else [answer]:
        row.update({key: value for key in keys if key in row})
    return answer


def ended(answer: Any) -> Any:
    for row in answer if isinstance(answer, list) else [answer]:
        row["stop_type"] = "abort"
        row.setdefault("meta_info", {"finish_reason": {}})["finish_reason"] = {"type": "abort", "message": "no memory"}
    return answer


@pytest.mark.parametrize(
    ("given", "address", "path"),
    [
        ("http://h:1/generate", "http://h:1/generate", "/generate"),
        ("http://h:1/a/completion/", "http://h:1/a/completion", "/completion"),
        ("http://h:1/v1", "http://h:1/v1/completions", "/completions"),
        ("http://h:1", "http://h:1/v1/completions", "/completions"),
    ],
)
def test_the_end_of_an_address_tells_what_is_spoken_there(given, address, path):
    assert str(teacher_url(given)) == address and dialect_of(teacher_url(given)).path == path
