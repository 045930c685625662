"""A teacher at an address scores texts as the same teacher here does; what is wrong with its answer is said."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from tests.decoding.remote.fake_native import FakeSglang
from tests.decoding.remote.fake_vllm import NAME, FakeVllm, Handler, fake_vllm
from tests.decoding.tiny import make_pair
from wheels.decoding.teacher_forcing import teacher_logits
from wheels.endpoints import scoring
from wheels.endpoints.faults import AnswerUnusable, RequestFailed
from wheels.endpoints.retry import Patience
from wheels.endpoints.scoring import ScoringTeacher, TokenScores, scores_of
from wheels.errors import WheelsError
from wheels.models.pair import Pair

SOURCES = [[5, 6, 7], [8], [9, 10, 11, 12], [13, 3]]
TEXTS = [[6, 7], [9, 10, 11, 5], [8], [7, 7, 7]]
QUICK = Patience(2, 30.0, base=0.001)
SERVERS = ["vllm", "sglang", "wheels llama", "wheels t5"]


def asked(pair: Pair, url: str, model: str) -> AbstractContextManager[ScoringTeacher]:
    settings: dict[str, Any] = {"vocab_size": pair.vocab_size, "is_seq2seq": pair.is_seq2seq, "patience": QUICK}
    return ScoringTeacher.at(url, model, pair.tokenizer, **settings)


@pytest.fixture(scope="module", params=SERVERS)
def there(request: Any) -> Iterator[tuple[Pair, ScoringTeacher]]:
    kind, _, family = request.param.partition(" ")
    pair = make_pair(family or "llama")
    if kind in ("vllm", "sglang"):
        made = FakeSglang if kind == "sglang" else FakeVllm
        with fake_vllm(pair.teacher, pair.tokenizer, made) as server, asked(pair, server.url, NAME) as teacher:
            yield pair, teacher
        return
    if not all(map(find_spec, ("fastapi", "uvicorn", "openai"))):
        pytest.skip("what `wheels serve` needs is not installed (the extras serve and test)")
    from tests.decoding.remote.test_own_server import serve

    with serve(pair) as server, asked(pair, f"{server.url}/v1", "big") as teacher:
        yield pair, teacher
        assert server.idle()


def here(pair: Pair, k: int) -> list[TokenScores]:
    read = dict(teacher_logits(pair, SOURCES, TEXTS, 1))
    return [scores_of(read[place], text, k) for place, text in enumerate(TEXTS)]


@pytest.mark.parametrize("k", [1, 5])
def test_scores_are_those_of_the_teacher_at_hand(there, k):
    pair, teacher = there
    for found, own in zip(teacher.score(SOURCES, TEXTS, k), here(pair, k), strict=True):
        assert torch.equal(found.ids_TK, own.ids_TK)
        for name in ("log_p_TK", "log_rest_T", "log_p_token_T"):
            torch.testing.assert_close(getattr(found, name), getattr(own, name), rtol=0, atol=2e-5, msg=name)
        total_T = found.log_p_TK.exp().sum(-1) + found.log_rest_T.exp()
        torch.testing.assert_close(total_T, torch.ones_like(total_T))


def test_requests_are_packed_and_counted(there, monkeypatch):
    pair, teacher = there
    before = teacher.usage
    monkeypatch.setattr(scoring, "MOST_VALUES", 12)
    found = teacher.score(SOURCES, TEXTS, 2)
    assert teacher.usage.requests - before.requests > 1
    assert teacher.usage.prompt - before.prompt == sum(map(len, SOURCES)) + sum(map(len, TEXTS))
    assert all(torch.equal(one.ids_TK, own.ids_TK) for one, own in zip(found, here(pair, 2), strict=True))


def test_the_whole_vocabulary_leaves_no_rest(there):
    pair, teacher = there
    found = teacher.score(SOURCES, TEXTS, pair.vocab_size)[0]
    assert sorted(found.ids_TK[0].tolist()) == list(range(pair.vocab_size)) and (found.log_rest_T < -1e38).all()


@pytest.fixture
def tried(pair: Pair, server: FakeVllm) -> Iterator[ScoringTeacher]:
    with asked(pair, server.url, NAME) as teacher:
        yield teacher


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Change what a server says of the last place of its first text."""

    def answer(whole: dict[str, Any]) -> Any:
        change(whole["choices"][0]["prompt_logprobs"][-1])
        return whole

    return answer


def pop_first(told: dict[str, Any]) -> None:
    told.pop(next(iter(told)))


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an id beyond the vocabulary": (
        changed(lambda told: told.update({"99": {"logprob": -1.0}})),
        "99.* among log-probabilities; ids are below",
    ),
    "a word for an id": (changed(lambda told: told.update({"the": {"logprob": -1.0}})), "'the'"),
    "a probability above 1": (changed(lambda told: told.update({"5": {"logprob": 0.5}})), "0.5"),
    "no number": (changed(lambda told: told.update({"5": {"logprob": None}})), "None"),
    "too few": (changed(pop_first), "log-probabilities in a place, where 3 were asked for"),
    "too short": (
        lambda whole: whole | {"choices": [{**each, "prompt_logprobs": [None]} for each in whole["choices"]]},
        "the log-probabilities of 1 tokens to a text of",
    ),
    "none": (
        lambda whole: whole | {"choices": [{**each, "prompt_logprobs": None} for each in whole["choices"]]},
        r"gives no log-probabilities of a prompt \(prompt_logprobs\)",
    ),
    "another model": (lambda whole: whole | {"model": "small"}, "another model: expected 'big/teacher', got 'small'"),
    "a text too few": (lambda whole: whole | {"choices": whole["choices"][1:]}, "answers with choices"),
}


@pytest.mark.parametrize("name", WRONG)
def test_answers_that_cannot_be_used_are_not_asked_for_again(server, tried, name):
    change, words = WRONG[name]
    before = len(server.bodies)
    server.change = change
    with pytest.raises(AnswerUnusable, match=words):
        tried.score(SOURCES, TEXTS, 3)
    assert len(server.bodies) == before + 1


def test_what_may_pass_is_tried_again(server, tried):
    left = [1]

    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        left[0] -= 1
        if left[0] >= 0:
            handler.error(503, "overloaded")
        return left[0] >= 0

    server.fault = fault
    assert len(tried.score(SOURCES, TEXTS, 3)) == len(TEXTS)
    left[0] = 2
    with pytest.raises(RequestFailed, match="gives no answer: code 503"):
        tried.score(SOURCES, TEXTS, 3)


def test_a_server_of_prompts_is_no_teacher_of_an_encoder_decoder(server):
    with pytest.raises(WheelsError, match="whose outputs are in none; serve its teacher by `wheels serve`"):
        asked(make_pair("t5"), server.url, NAME).__enter__()
