"""The official client gets what `wheels generate` writes: whole and in streams, with usage, authors and details."""

import pytest

from tests.decoding.serve.harness import TEXTS, Served
from tests.docs.blocks import ROOT, blocks_of
from tests.marks import slow
from wheels.api import Model
from wheels.decoding.methods.method import speculative
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.streaming import decode
from wheels.decoding.trace import Trace

NAME = "embedded-translation"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.embedded()


def expected(model: Model, texts: list[str], seed: int = 0, temperature: float = 0.0, **how) -> list[Trace]:
    """As the command writes it; the head is the server's, whatever the seed of the draws."""
    rule = model.rule(how.pop("rule", "learned"))
    return model.generate(texts, rule=rule, seed=seed, sampling=Sampling(temperature), **how)


@pytest.mark.slow
@pytest.mark.parametrize("how", [
    {}, {"teacher_budget": 0.3, "mode": "strict"}, {"temperature": 1.3, "seed": 2**40},
    *slow({"teacher_budget": 0.0}, {"teacher_budget": 1.0}, {"teacher_budget": 0.5, "rule": "entropy"},
          {"teacher_budget": 0.4, "rule": "random", "seed": 5}, {"temperature": 0.8, "seed": 3}),
])  # fmt: skip
def test_the_same_seed_gives_the_same_text_as_generate(server: Served, model: Model, how: dict) -> None:
    """Several prompts at once, each with two choices: as a list that has each text twice."""
    traces = expected(model, [text for text in TEXTS for _ in range(2)], **how)
    known = {"seed": how.get("seed"), "temperature": how.get("temperature"), "extra_body": {
        "teacher_budget": how.get("teacher_budget"), "budget_mode": how.get("mode"), "rule": how.get("rule"),
    }}  # fmt: skip
    answer = server.client.completions.create(model=NAME, prompt=TEXTS, n=2, max_tokens=128, **known)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert [choice.text for choice in answer.choices] == [trace.text for trace in traces]
    assert answer.usage.completion_tokens == sum(trace.tokens for trace in traces)
    assert answer.usage.model_extra["teacher_tokens"] == sum(trace.teacher_tokens for trace in traces)
    assert answer.usage.prompt_tokens == sum(map(len, model.pair.encode(TEXTS)))
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}


@pytest.mark.parametrize(
    "method", ["verified", "lookup", *slow("speculative", "priced", "bild", "cascade", "take-back")]
)
def test_methods_that_verify_stream_nothing_that_is_taken_back(server: Served, method: str) -> None:
    body = server.body(max_tokens=40)
    del body["model"]
    whole = server.client.completions.create(model=NAME, **body, extra_body={"method": method})
    parts = server.client.completions.create(model=NAME, **body, stream=True, extra_body={"method": method})
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text != ""


def test_speculation_is_lossless(server: Served, model: Model) -> None:
    (trace,) = decode(model.pair, TEXTS[:1], speculative(5), DecodeParams(max_new_tokens=40))
    asked = server.body(max_tokens=40)
    for how in ({"method": "speculative"}, {"teacher_budget": 1.0}):
        assert server.post(asked | how).json()["choices"][0]["text"] == trace.text


def test_a_stream_has_the_text_in_parts_and_the_usage_at_its_end(server: Served, model: Model) -> None:
    (trace,) = expected(model, TEXTS[:1])
    stream = server.client.completions.create(
        model=NAME, prompt=TEXTS[0], max_tokens=128, stream=True, stream_options={"include_usage": True},
        extra_body={"return_authors": True},
    )  # fmt: skip
    *parts, last = list(stream)
    assert "".join(part.choices[0].text for part in parts) == trace.text
    assert [part.choices[0].finish_reason for part in parts] == [None] * (len(parts) - 1) + ["stop"]
    assert len(parts) > 5, "token by token"
    assert last.choices == [] and last.usage.completion_tokens == trace.tokens
    assert last.usage.model_extra["teacher_tokens"] == trace.teacher_tokens
    told = [token for part in parts for token in part.choices[0].model_extra["authors"]]
    assert tuple(token["author"] for token in told) == trace.authors
    assert tuple(token["id"] for token in told) == trace.token_ids
    assert "".join(token["token"] for token in told).strip() == trace.text


def test_several_choices_stream_side_by_side(server: Served, model: Model) -> None:
    traces = expected(model, TEXTS[:1] * 3, seed=9, temperature=1.0)
    texts = [""] * 3
    for part in server.client.completions.create(
        model=NAME, prompt=TEXTS[0], n=3, seed=9, temperature=1.0, max_tokens=128, stream=True
    ):
        texts[part.choices[0].index] += part.choices[0].text
    assert texts == [trace.text for trace in traces]


def test_without_a_seed_samples_differ(server: Served) -> None:
    texts = {server.post(server.body(temperature=2.0)).json()["choices"][0]["text"] for _ in range(3)}
    assert len(texts) == 3


def test_a_chat_of_one_message_is_the_text(server: Served, model: Model) -> None:
    (trace,) = expected(model, TEXTS[:1])
    messages = [{"role": "user", "content": TEXTS[0]}]
    answer = server.client.chat.completions.create(model=NAME, messages=messages)
    assert answer.choices[0].message.content == trace.text and answer.choices[0].message.role == "assistant"
    parts = list(server.client.chat.completions.create(model=NAME, messages=messages, stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == trace.text
    split = [{"type": "text", "text": TEXTS[0][:9]}, {"type": "text", "text": TEXTS[0][9:]}]
    answer = server.client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": split}])
    assert answer.choices[0].message.content == trace.text


def test_a_stop_text_ends_the_text_before_it_however_it_is_cut(server: Served, model: Model) -> None:
    (trace,) = expected(model, TEXTS[:1])
    middle = trace.text[len(trace.text) // 3 : len(trace.text) // 3 + 7]
    shown = trace.text[: trace.text.index(middle)]
    for stop in (middle, [middle], ["never there", middle]):
        answer = server.client.completions.create(model=NAME, prompt=TEXTS[0], max_tokens=128, stop=stop)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (shown.rstrip(), "stop")
        assert answer.usage.completion_tokens < trace.tokens
        parts = server.client.completions.create(model=NAME, prompt=TEXTS[0], max_tokens=128, stop=stop, stream=True)
        assert "".join(part.choices[0].text for part in parts) == shown.rstrip()
    for stop in ("never there", trace.text[-3:] + "?!"):  # the second is held back to the end
        whole = server.client.completions.create(model=NAME, prompt=TEXTS[0], max_tokens=128, stop=stop)
        assert whole.choices[0].text == trace.text


def test_max_tokens_cuts(server: Served, model: Model) -> None:
    (trace,) = expected(model, TEXTS[:1], max_new_tokens=4)
    answer = server.client.completions.create(model=NAME, prompt=TEXTS[0], max_tokens=4)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (trace.text, "length")
    assert answer.usage.completion_tokens == 4
    chat = server.client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": TEXTS[0]}], max_completion_tokens=4
    )
    assert chat.choices[0].message.content == trace.text


def test_log_probabilities_are_the_writers_own(server: Served, model: Model) -> None:
    """At budget 0 and 1 one model writes, so they are those of its own forward pass over the text."""
    import torch

    for budget, writer in ((0.0, model.pair.student), (1.0, model.pair.teacher)):
        answer = server.client.completions.create(
            model=NAME, prompt=TEXTS[0], max_tokens=12, logprobs=3,
            extra_body={"teacher_budget": budget, "return_token_ids": True},
        )  # fmt: skip
        choice = answer.choices[0]
        ids, source = choice.model_extra["token_ids"], choice.model_extra["prompt_token_ids"]
        read = torch.tensor([[*model.pair.start_ids, *ids[:-1]]])
        with torch.no_grad():
            logits_TV = writer(input_ids=torch.tensor([source]), decoder_input_ids=read).logits[0]
        log_p_TV = logits_TV[:, : model.pair.vocab_size].log_softmax(-1)
        own = log_p_TV.gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(choice.logprobs.token_logprobs), own, atol=1e-3, rtol=0)
        assert all(len(best) <= 3 for best in choice.logprobs.top_logprobs)
        best = torch.tensor([max(each.values()) for each in choice.logprobs.top_logprobs])
        torch.testing.assert_close(best, log_p_TV.max(-1).values, atol=1e-3, rtol=0)
        assert choice.logprobs.text_offset[0] == 0 and len(choice.logprobs.tokens) == len(ids)


def test_log_probabilities_of_a_chat(server: Served) -> None:
    answer = server.client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": TEXTS[0]}], logprobs=True, top_logprobs=2, max_tokens=5
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 5 and all(len(each.top_logprobs) == 2 and each.logprob <= 0 for each in content)
    assert "".join(bytes(each.bytes).decode() for each in content).strip() == answer.choices[0].message.content


def test_token_ids_go_in_as_they_are(server: Served, model: Model) -> None:
    ids = model.pair.encode(TEXTS)
    by_text = server.client.completions.create(model=NAME, prompt=TEXTS, max_tokens=9)
    by_ids = server.client.completions.create(model=NAME, prompt=ids, max_tokens=9)
    assert [each.text for each in by_ids.choices] == [each.text for each in by_text.choices]
    one = server.client.completions.create(model=NAME, prompt=ids[1], max_tokens=9)
    assert one.choices[0].text == by_text.choices[1].text


def test_the_list_of_models_has_the_one(server: Served) -> None:
    assert [each.id for each in server.client.models.list()] == [NAME]
    assert server.client.models.retrieve(NAME).id == NAME


def test_fields_that_ask_for_nothing_are_taken(server: Served) -> None:
    """Clients fill in defaults."""
    asked = server.body(
        max_tokens=3, presence_penalty=0, frequency_penalty=0.0, best_of=1, echo=False, logit_bias=None, suffix=None,
        user="me", temperature=None, top_p=1, n=None, stop=None, seed=None, stream=False, logprobs=None,
    )  # fmt: skip
    assert server.post(asked).status_code == 200


def test_the_client_of_the_guide_runs(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    guide = (ROOT / "docs/guides/serving.md").read_text(encoding="utf-8")
    (block,) = [each for each in blocks_of(guide, "text") if "OpenAI(" in each]
    assert "http://127.0.0.1:8000" in block
    exec(block.replace("http://127.0.0.1:8000", server.url), {})
    text, teacher_tokens = capsys.readouterr().out.strip().rsplit(" ", 1)
    assert text and int(teacher_tokens) > 0


def test_metrics_count_what_was_served(server: Served) -> None:
    def counts() -> dict[str, float]:
        with server.http as http:
            lines = [line for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    before = counts()
    usage = server.post(server.body(max_tokens=20)).json()["usage"]
    list(server.client.completions.create(model=NAME, prompt=TEXTS[0], max_tokens=20, stream=True))
    after = counts()
    grown = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    assert grown['wheels_tokens_total{author="teacher"}'] == 2 * usage["teacher_tokens"]
    written = grown['wheels_tokens_total{author="teacher"}'] + grown['wheels_tokens_total{author="student"}']
    assert written == 2 * usage["completion_tokens"] == 2 * (1 + grown["wheels_between_tokens_seconds_count"])
    assert grown["wheels_prompt_tokens_total"] == 2 * usage["prompt_tokens"]
    assert grown['wheels_requests_total{path="/v1/completions",status="200"}'] == 2
    assert grown["wheels_first_token_seconds_count"] == 1 and grown["wheels_request_seconds_count"] == 2
    assert grown['wheels_passes_total{model="student"}'] > 0 and after["wheels_ready"] == 1
    assert 0 < after["wheels_teacher_use"] < 1 and after["wheels_texts_in_flight"] == 0
