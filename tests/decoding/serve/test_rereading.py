"""What the other model would have written is what it writes there: asked at every state, one token at a time."""

import itertools
import math

import pytest

from tests.decoding.serve.harness import TEXTS, Served, served, until
from tests.decoding.serve.test_chats import pair_with
from tests.marks import slow
from wheels.decoding.serve import rereading
from wheels.decoding.trace import STUDENT, TEACHER
from wheels.models.artefact import Artefact
from wheels.policy.calibration import Calibration

LONGEST = 40


def are_what_the_other_model_writes(server: Served, how: dict, prompt: str = TEXTS[2]) -> None:
    asked = server.body(
        prompt=prompt, max_tokens=LONGEST, return_authors=True, return_alternatives=True, return_token_ids=True
    )
    (choice,) = server.post(asked | how).json()["choices"]
    ids, authors, told = choice["token_ids"], choice["authors"], choice["alternatives"]
    assert len(told) == len(ids) > 9
    drawn = {name: how[name] for name in ("temperature", "top_p", "seed") if name in how}
    for place, (token, other) in enumerate(zip(authors, told, strict=True)):
        assert other["author"] == (STUDENT if token["author"] == TEACHER else TEACHER)
        one = server.body(
            prompt=prompt, max_tokens=1, text_limits=[LONGEST], written_token_ids=[ids[:place]], return_token_ids=True,
            return_authors=True, method="deferral", teacher_budget=float(other["author"] == TEACHER), **drawn,
        )  # fmt: skip
        (expected,) = server.post(one).json()["choices"]
        assert (expected["token_ids"], expected["authors"][0]["author"]) == ([other["id"]], other["author"]), place


@pytest.mark.slow
@pytest.mark.parametrize("how", [
    {"teacher_budget": 0.3}, *slow({"teacher_budget": 0.0}, {"teacher_budget": 1.0}, {"method": "verified"}),
    {"teacher_budget": 0.4, "rule": "random", "temperature": 1.2, "top_p": 0.9, "seed": 7},
])  # fmt: skip
def test_each_alternative_is_what_the_other_model_writes_there(server: Served, monkeypatch, how: dict) -> None:
    monkeypatch.setattr(rereading, "STATES", 7)  # several passes
    are_what_the_other_model_writes(server, how)


@pytest.mark.slow
def test_after_a_prompt_of_a_causal_model_too(monkeypatch) -> None:
    """The prompt is read in chunks, without logits."""
    monkeypatch.setattr(rereading, "STATES", 7)
    monkeypatch.setattr(rereading, "CHUNK", 3)
    artefact = Artefact(pair_with("system"), {}, Calibration(), student_name="chatty")
    with served(artefact, rule="random", longest_output=64) as running:
        how = {"teacher_budget": 0.4, "temperature": 0.7, "seed": 3}
        are_what_the_other_model_writes(running, how, prompt="What is two? Five is it! What is three?")


def test_their_probabilities_are_those_of_the_other_model(server: Served) -> None:
    asked = server.body(max_tokens=9, return_alternatives=True, return_token_ids=True)
    (choice,) = server.post(asked | {"teacher_budget": 0.0}).json()["choices"]
    for place, other in enumerate(choice["alternatives"]):
        one = server.body(
            max_tokens=1,
            text_limits=[9],
            written_token_ids=[choice["token_ids"][:place]],
            logprobs=5,
            teacher_budget=1.0,
        )
        (expected,) = server.post(one).json()["choices"]
        assert other["logprob"] == pytest.approx(expected["logprobs"]["token_logprobs"][0], abs=1e-3)
        known = expected["logprobs"]["top_logprobs"][0].values()
        assert other["written_logprob"] <= max(known) + 1e-3
        assert (other["id"] == choice["token_ids"][place]) == (other["logprob"] == other["written_logprob"])
        assert math.isfinite(other["written_logprob"])


def test_a_stream_has_its_text_before_it_is_read_once_more(server: Served) -> None:
    stream = server.client.completions.create(
        model=server.service.name, prompt=TEXTS[:2], n=2, max_tokens=LONGEST, stream=True, temperature=1.0, seed=1,
        extra_body={"return_alternatives": True, "return_authors": True},
    )  # fmt: skip
    written, told = [0] * 4, dict[int, list]()
    for part in stream:
        (choice,) = part.choices
        assert choice.index not in told, "nothing comes after the end"
        written[choice.index] += len(choice.model_extra["authors"])
        if choice.finish_reason is not None:
            assert choice.text == ""
            told[choice.index] = choice.model_extra["alternatives"]
    assert [len(told[index]) for index in range(4)] == written and min(written) > 5
    until(server.idle)


def test_a_client_that_leaves_while_its_text_is_read_once_more_is_forgotten(server: Served, monkeypatch) -> None:
    monkeypatch.setattr(rereading.Rereader, "read", lambda *_: itertools.repeat(None))  # it never ends
    asked = server.body(max_tokens=3, stream=True, return_alternatives=True)
    with server.http as http, http.stream("POST", "/v1/completions", json=asked) as answer:
        lines = answer.iter_lines()  # kept: its end would end the stream
        next(lines)
        until(lambda: any(lane.rereads for lane in server.service.worker.lanes.values()))
        assert not server.idle()
    until(server.idle)


def test_a_stop_text_ends_the_alternatives_too(server: Served) -> None:
    whole = server.post(server.body()).json()["choices"][0]["text"]
    asked = server.body(stop=whole[20:24], return_alternatives=True, return_authors=True)
    (choice,) = server.post(asked).json()["choices"]
    assert choice["finish_reason"] == "stop" and len(choice["alternatives"]) == len(choice["authors"]) > 0
    until(server.idle)


def test_what_is_read_once_more_is_in_no_cost_and_not_asked_for_is_not_done(server: Served, monkeypatch) -> None:
    def usage(**more) -> dict:
        told = server.post(server.body(max_tokens=LONGEST, **more)).json()["usage"]
        assert told.pop("seconds") > 0
        return told

    plain = usage()
    assert usage(return_alternatives=True) == plain and plain["teacher_passes"] >= plain["teacher_tokens"] > 0
    assert plain["student_passes"] >= plain["completion_tokens"] - plain["teacher_tokens"]

    def broken(*_) -> None:
        raise ArithmeticError("not to be read")

    monkeypatch.setattr(rereading.Rereader, "read", broken)
    assert usage() == plain
    assert server.post(server.body(return_alternatives=True)).status_code == 500
    assert usage() == plain
    until(server.idle)


def test_money_is_counted_by_the_price_list(embedded) -> None:
    """The teacher alone reads the prompt and writes the rest; a deferred text is paid for what it reads and writes."""
    with served(embedded, prices=("prompt=1", "completion=1000")) as server:
        never, some, always = (
            server.post(server.body(max_tokens=LONGEST, teacher_budget=budget)).json()["usage"]
            for budget in (0.0, 0.3, 1.0)
        )
        assert never["dollars"] == 0 and always["dollars"] == always["teacher_dollars"]
        alone = (always["prompt_tokens"] + 1000 * always["completion_tokens"]) / 1e6
        assert always["teacher_dollars"] == pytest.approx(alone)
        students = some["completion_tokens"] - some["teacher_tokens"]
        least = (some["prompt_tokens"] + 1000 * some["teacher_tokens"]) / 1e6
        assert least <= some["dollars"] <= least + students / 1e6
        with server.http as http:
            (line,) = [each for each in http.get("/metrics").text.splitlines() if each.startswith("wheels_dollars_t")]
        assert float(line.split()[1]) == pytest.approx(some["dollars"] + always["dollars"])
    assert "dollars" not in never or never["teacher_dollars"] > 0
