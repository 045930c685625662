"""`echo`: the prompt stands before the text, and one model says how likely it is."""

import pytest
import torch

from tests.decoding.serve.harness import served, until
from tests.decoding.tiny import make_pair
from wheels.models.artefact import Artefact
from wheels.policy.calibration import Calibration

PROMPTS = [[5, 6, 7, 8], [9, 5, 11]]


@pytest.fixture(scope="module")
def causal():
    artefact = Artefact(make_pair("llama"), {}, Calibration(), student_name="big")
    with served(artefact, rule="random", longest_output=40) as running:
        yield running


@pytest.mark.parametrize("budget", [0, 1])
def test_a_prompt_is_told_again_with_what_one_model_says_of_it(causal, budget: int) -> None:
    pair, body = causal.service.pair, {"model": "big", "prompt": PROMPTS, "max_tokens": 3, "teacher_budget": budget}
    plain = causal.post(body | {"logprobs": 2, "n": 2}).json()
    told = causal.post(body | {"logprobs": 2, "n": 2, "echo": True}).json()
    model = pair.teacher if budget else pair.student
    for index, (bare, choice) in enumerate(zip(plain["choices"], told["choices"], strict=True)):
        prompt = PROMPTS[index // 2]
        before = pair.tokenizer.decode(prompt, skip_special_tokens=True)
        assert choice["text"] == before + bare["text"]
        found, own = choice["logprobs"], bare["logprobs"]
        with torch.no_grad():
            log_p = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        expected = [float(log_p[place, token]) for place, token in enumerate(prompt[1:])]
        assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
        assert found["token_logprobs"][1:] == pytest.approx(expected + own["token_logprobs"], abs=1e-5)
        best = [max(row.values()) for row in found["top_logprobs"][1 : len(prompt)]]
        assert best == pytest.approx(log_p[:-1].max(-1).values.tolist(), abs=1e-5)
        assert found["text_offset"][len(prompt) :] == [len(before) + each for each in own["text_offset"]]
    passes = "teacher_passes" if budget else "student_passes"
    assert told["usage"][passes] == plain["usage"][passes] + 4
    until(causal.idle)


def test_without_log_probabilities_any_budget_will_do(causal) -> None:
    body = {"model": "big", "prompt": PROMPTS[0], "max_tokens": 2, "teacher_budget": 0.5, "seed": 3}
    bare, echoed = (causal.post(body | more).json()["choices"][0] for more in ({}, {"echo": True}))
    assert echoed["text"].endswith(bare["text"]) and len(echoed["text"]) > len(bare["text"])
    assert echoed["logprobs"] is None
    answer = causal.post(body | {"echo": True, "logprobs": 1})
    assert answer.status_code == 400 and "teacher_budget must be 0 or 1, got 0.5" in answer.json()["error"]["message"]
    assert causal.idle()
