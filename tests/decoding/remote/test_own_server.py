"""`wheels serve` as the teacher of a student elsewhere: encoder-decoders too, token for token."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

if not all(map(find_spec, ("fastapi", "uvicorn", "openai"))):
    pytest.skip("what `wheels serve` needs is not installed (the extras serve and test)", allow_module_level=True)

from tests.decoding.serve.harness import Served, served
from tests.decoding.tiny import make_pair, write
from tests.envs.tiny import SOURCES
from wheels.decoding.methods.method import teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.span import SpanRule
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.sampling import Sampling
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.models.pair import Pair
from wheels.policy.calibration import Calibration

MAXPROB, RANDOM = RULES["maxprob"].at(0.6), RULES["random"]
LONG = {"max_new_tokens": 12}
FAMILIES = ["t5", "llama", "marian", "bart", "gpt2"]


def serve(pair: Pair, **settings: Any) -> Any:
    artefact = Artefact(pair, {}, Calibration(), student_name="big")
    return served(artefact, rule="random", longest_output=40, batch_size=4, **settings)


def far(pair: Pair, server: Served) -> RemotePair:
    return RemotePair(pair.student, RemoteTeacher(f"{server.url}/v1", "big", on_error="stop"), pair.tokenizer)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: Any) -> Iterator[tuple[Pair, Served]]:
    pair = make_pair(request.param)
    with serve(pair) as server:
        yield pair, server


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0.4, 1.0])
def test_every_token_is_that_of_the_teacher_at_hand(family, budget):
    pair, server = family
    method = RANDOM if budget < 1 else teacher_only()
    there = far(pair, server)
    assert there.probe.is_wheels and there.probe.batches and there.source_limit == pair.source_limit
    found = write(there, SOURCES, method, budget=budget, **LONG)
    here = write(pair, SOURCES, method, budget=budget, **LONG)
    assert [trace.token_ids for trace in found] == [trace.token_ids for trace in here]
    assert [trace.authors for trace in found] == [trace.authors for trace in here]
    assert any(trace.teacher_tokens for trace in found)


@pytest.mark.slow
def test_draws_are_the_same_in_every_run(family):
    pair, server = family
    settings: dict[str, Any] = {"sampling": Sampling(1.2), "seed": 3, **LONG}
    runs = [
        [trace.token_ids for trace in write(far(pair, server), SOURCES, MAXPROB, **settings, batch_size=size)]
        for size in (1, 4)
    ]
    assert runs[0] == runs[1]
    with pytest.raises(WheelsError, match="top_k is no setting of `wheels serve`"):
        write(far(pair, server), SOURCES, MAXPROB, sampling=Sampling(1.0, top_k=3))


@pytest.mark.parametrize("span", [SpanRule(5), SpanRule(12, ("g", "e"))], ids=["5 tokens", "stop texts"])
def test_calls_of_several_tokens_write_the_teachers_text(family, span):
    pair, server = family
    there = far(pair, server)
    there.remote.span = span
    found = write(there, SOURCES, teacher_only(), budget=1.0, **LONG)
    here = write(pair, SOURCES, teacher_only(), budget=1.0, **LONG)
    assert [trace.token_ids for trace in found] == [trace.token_ids for trace in here]
    assert sum(trace.teacher_passes for trace in found) < sum(trace.tokens for trace in found)


def ids(pair: Pair, source: str) -> list[int]:
    return pair.encode([source])[0]


def test_a_text_goes_on_where_it_stands_and_ends_where_it_would(family):
    pair, server = family
    whole = write(pair, SOURCES, teacher_only(), budget=1.0, **LONG)
    source, trace = next((s, t) for s, t in zip(SOURCES, whole, strict=True) if t.tokens >= 4)
    body = {
        "model": "big", "prompt": [ids(pair, source)] * 2, "teacher_budget": 1.0, "return_token_ids": True,
        "written_token_ids": [list(trace.token_ids[:2]), []], "text_limits": [12, 12], "max_tokens": 2, "logprobs": 1,
    }  # fmt: skip
    answer = server.post(body).json()
    assert [choice["token_ids"] for choice in answer["choices"]] == [
        list(trace.token_ids[2:4]),
        list(trace.token_ids[:2]),
    ]
    assert answer["usage"]["completion_tokens"] == answer["usage"]["teacher_tokens"] == 4
    assert [len(choice["logprobs"]["token_logprobs"]) for choice in answer["choices"]] == [2, 2]
    assert all(value <= 0 for choice in answer["choices"] for value in choice["logprobs"]["token_logprobs"])
    rest = server.post(body | {"max_tokens": 20}).json()["choices"][0]
    assert [*trace.token_ids[:2], *rest["token_ids"]] == list(trace.token_ids)
    assert rest["finish_reason"] == ("stop" if trace.finished else "length")
    assert server.idle()


def test_what_cannot_go_on_is_refused(family):
    pair, server = family
    good = {"model": "big", "prompt": [ids(pair, "a b")], "written_token_ids": [[5]], "max_tokens": 1}
    for change, words in (
        ({"written_token_ids": [[5], [6]]}, "written_token_ids needs one entry for each of 1 prompts, got 2"),
        ({"text_limits": [1, 2]}, "text_limits needs one entry for each of 1 prompts, got 2"),
        ({"written_token_ids": [[99]]}, "has token id 99"),
        ({"written_token_ids": [[5, pair.eos_ids[0]]]}, "that text goes on no more"),
        ({"text_limits": [1]}, "an output of 1 tokens, 1 of them written"),
        ({"text_limits": [41]}, "at most"),
        ({"written_token_ids": None, "text_limits": [4]}, "text_limits is for texts that go on"),
        ({"written_token_ids": [5]}, "written_token_ids"),
    ):
        answer = server.post(good | change)
        assert answer.status_code == 400 and words in answer.json()["error"]["message"], answer.text
    assert server.post(good).status_code == 200


def test_the_list_of_models_says_how_long_a_text_may_be(family):
    pair, server = family
    with server.http as http:
        (model,) = http.get("/v1/models").json()["data"]
    assert (model["owned_by"], model["max_model_len"]) == ("wheels", pair.source_limit)
