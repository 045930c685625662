"""What a server has is found out before it is asked for anything that counts, and what is missing is said by name."""

import re

import pytest

from tests.decoding.remote.fake_vllm import LIMIT, NAME, fake_vllm
from tests.decoding.tiny import make_pair
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.endpoints.probe import Probe
from wheels.errors import WheelsError


def test_what_is_there_is_known_after_one_request(pair, server, far):
    there = far(server)
    assert there.probe == Probe("vllm", NAME, LIMIT, batches=True, log_probs=True, usage=there.probe.usage)
    assert there.probe.usage.completion == 2
    assert (
        str(there.probe)
        == f"{NAME} (vllm): token ids, log-probabilities, several texts a request, 64 tokens of context"
    )
    assert len(server.bodies) == 1 and server.bodies[0]["max_tokens"] == 1
    assert there.source_limit == LIMIT and there.vocab_size == pair.vocab_size


def test_the_shorter_context_of_both_is_the_limit(server, far):
    server.listed[0]["max_model_len"] = 20
    assert far(server).source_limit == 20
    server.listed[0]["max_model_len"] = 2000
    assert far(server).source_limit == 64


@pytest.mark.parametrize("listed", [None, [], {"id": "x"}, [3], [{"id": NAME}]])
def test_a_server_that_lists_nothing_has_no_known_limit(server, far, listed):
    server.listed = listed
    probe = far(server).probe
    assert probe.limit is None and probe.server == "unknown" and "no limit known" in str(probe)


def test_a_server_that_refuses_log_probabilities_is_asked_without(server, far):
    server.fault = lambda handler, body: bool(body.get("logprobs")) and (handler.error(400, "no logprobs") or True)
    probe = far(server).probe
    assert probe.batches and not probe.log_probs and "no log-probabilities" in str(probe)


def test_a_server_that_counts_one_text_of_several_is_asked_for_one(server, far):
    server.change = lambda answer: answer | {"usage": {"prompt_tokens": 9, "completion_tokens": 1}}
    assert not far(server).probe.batches


def test_a_server_of_text_alone_is_asked_in_words(server, far):
    def without_ids(answer):
        for choice in answer["choices"]:
            del choice["token_ids"], choice["prompt_token_ids"]
        return answer

    server.change = without_ids
    there = far(server)
    assert "gives no token ids (return_token_ids), as vLLM from 0.10.2 on" in there.probe.difference and there.by_text


def test_a_model_that_is_not_there_is_named_beside_those_that_are(pair, server):
    teacher = RemoteTeacher(server.url, "big/teachr")
    with pytest.raises(WheelsError, match=r"code 404: .*is 'big/teachr' its name\?; did you mean 'big/teacher'"):
        RemotePair(pair.student, teacher, pair.tokenizer)


def test_a_model_with_another_tokenizer_is_asked_in_words(pair, server, far):
    def permuted(answer):
        for choice in answer["choices"]:
            choice["prompt_token_ids"] = [max(3, (token * 5) % 14) for token in choice["prompt_token_ids"]]
        return answer

    server.change = permuted
    assert "has another tokenizer than the student: of 'a b c" in far(server).probe.difference

    def larger(answer):
        answer["choices"][0]["prompt_token_ids"].append(14)
        return answer

    server.change = larger
    assert "has another tokenizer" in far(server).probe.difference


def test_a_template_around_the_text_is_no_other_tokenizer(server, far):
    def framed(answer):
        for choice in answer["choices"]:
            choice["prompt_token_ids"] = [5, 6, *choice["prompt_token_ids"], 1, 7]
        return answer

    server.change = framed
    assert far(server).probe.batches


def test_the_outputs_of_an_encoder_decoder_are_continued_by_wheels_serve_or_in_words(pair):
    t5 = make_pair("t5")
    with fake_vllm(pair.teacher, t5.tokenizer) as server:
        teacher = RemoteTeacher(server.url, NAME)
        with pytest.raises(
            WheelsError, match=r"the student is an encoder-decoder; so it is asked in words.*says no task"
        ):
            RemotePair(t5.student, teacher, t5.tokenizer)
        teacher.close()


def test_the_key_is_shown_in_no_error(pair, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-THESECRET42")
    server.fault = lambda handler, body: handler.error(401, f"no: {handler.headers['Authorization']}") or True
    with pytest.raises(WheelsError, match=re.escape("code 401: no: Bearer [key]")):
        RemotePair(pair.student, RemoteTeacher(server.url, NAME), pair.tokenizer)
