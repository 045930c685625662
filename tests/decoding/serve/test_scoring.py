"""`prompt_logprobs`: what the teacher says of tokens that a client brings."""

from __future__ import annotations

import pytest
import torch

from tests.decoding.serve.harness import TEXTS, Served, served, until
from tests.decoding.tiny import make_pair
from wheels.decoding.serve import worker
from wheels.decoding.teacher_forcing import teacher_logits
from wheels.models.artefact import Artefact
from wheels.policy.calibration import Calibration

SCORED = {"prompt_logprobs": 3, "max_tokens": 0}


def test_an_encoder_decoder_scores_what_was_written(server: Served):
    pair, body = server.service.pair, server.body(prompt=TEXTS[:2], written_token_ids=[[5, 6], [7]], **SCORED)
    answer = server.post(body).json()
    sources = pair.encode(TEXTS[:2])
    read = dict(teacher_logits(pair, sources, [[5, 6], [7]], 1))
    for index, text in enumerate([[5, 6], [7]]):
        told = answer["choices"][index]["prompt_logprobs"]
        assert told[: len(sources[index])] == [None] * len(sources[index])
        log_p = read[index].log_softmax(-1)
        for place, row in enumerate(told[len(sources[index]) :]):
            best = log_p[place].topk(3).indices.tolist()
            assert [int(token) for token in row][:3] == best and str(text[place]) in row
            assert row[str(text[place])]["logprob"] == pytest.approx(float(log_p[place, text[place]]), abs=1e-5)
            assert [row[str(token)]["rank"] for token in best] == [1, 2, 3]
            assert row[str(best[0])]["decoded_token"] == pair.tokenizer.decode([best[0]])
    assert answer["usage"]["prompt_tokens"] == sum(map(len, sources)) + 3
    assert answer["usage"]["completion_tokens"] == 0
    assert server.idle()


def test_a_causal_model_scores_its_prompt_but_for_the_first_token():
    pair = make_pair("llama")
    with served(Artefact(pair, {}, Calibration(), student_name="big"), rule="random", longest_output=40) as running:
        prompt = [5, 6, 7, 8]
        (choice,) = running.post({"model": "big", "prompt": prompt, **SCORED}).json()["choices"]
        assert choice["prompt_logprobs"][0] is None and len(choice["prompt_logprobs"]) == 4
        with torch.no_grad():
            log_p = pair.teacher(torch.tensor([prompt])).logits[0].log_softmax(-1)
        for place, token in enumerate(prompt[1:]):
            told = choice["prompt_logprobs"][place + 1][str(token)]["logprob"]
            assert told == pytest.approx(float(log_p[place, token]), abs=1e-5)
        answer = running.post({"model": "big", "prompt": [5], **SCORED})
        assert answer.status_code == 400 and "give two or more" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"written_token_ids": None}, "give the text in written_token_ids"),
        ({"written_token_ids": [[]]}, "needs one text, not empty, for each of 1 prompts"),
        ({"written_token_ids": [[5], [6]]}, "needs one text, not empty, for each of 1 prompts, got 2"),
        ({"written_token_ids": [[10**6]]}, "has token id 1000000"),
        ({"prompt_logprobs": 10**6}, "prompt_logprobs must be in 1 to"),
        ({"prompt_logprobs": 0}, "greater than or equal to 1"),
        ({"max_tokens": 5}, "give both or neither"),
        ({"max_tokens": None}, "give both or neither"),
        ({"prompt_logprobs": None}, "give both or neither"),
        ({"stream": True}, "leave stream and n out"),
        ({"written_token_ids": [[5] * 500]}, "more than"),
        ({"prompt": [TEXTS[0]] * 20, "written_token_ids": [[5]] * 20, "prompt_logprobs": 3000}, "ask for fewer texts"),
        ({"model": "other"}, "does not exist"),
        ({"prompt": TEXTS[0]}, None),
    ],
)
def test_what_cannot_be_scored_is_refused(server: Served, change, words, monkeypatch):
    monkeypatch.setattr("wheels.decoding.serve.scoring.MOST_VALUES", 50_000)
    answer = server.post(server.body(**({"written_token_ids": [[5]]} | SCORED | change)))
    assert answer.status_code == (200 if words is None else 404 if "model" in change else 400), answer.text
    assert words is None or words in answer.json()["error"]["message"]
    assert server.idle()


def test_a_failure_and_a_full_queue_are_told(server: Served, monkeypatch):
    body = server.body(written_token_ids=[[5]], **SCORED)

    def fail(*_: object) -> bool:
        raise RuntimeError("of the teacher")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "score_next", fail)
        answer = server.post(body)
        assert answer.status_code == 500 and "of the teacher" not in answer.text
    many = server.body(prompt=[TEXTS[0]] * 30, written_token_ids=[[5]] * 30, **SCORED)
    assert server.post(many).status_code == 429
    assert server.post(body).status_code == 200
    until(server.idle)
