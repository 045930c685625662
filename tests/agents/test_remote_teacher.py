"""`wheels train` with a teacher at an address learns what it learns with the same teacher in a folder."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

if not all(map(find_spec, ("fastapi", "uvicorn", "openai"))):
    pytest.skip("what `wheels serve` needs is not installed (the extras serve and test)", allow_module_level=True)

from tests.agents.test_run import config  # noqa: F401
from tests.decoding.remote.fake_vllm import NAME, fake_vllm
from tests.decoding.remote.test_own_server import serve
from tests.decoding.serve.harness import Served
from tests.decoding.tiny import make_pair
from tests.envs.tiny import ROWS, SOURCES
from wheels.agents.config import TrainConfig
from wheels.agents.run import run
from wheels.agents.trainer import with_pseudo_references
from wheels.decoding.remote.pair import RemotePair, scoring_elsewhere
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.teacher_forcing import teacher_choices, teacher_force, teacher_shards
from wheels.envs.vector import DeferralVectorEnv
from wheels.errors import WheelsError
from wheels.files import read_json
from wheels.models.artefact import Artefact
from wheels.models.pair import Pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair("t5")


@pytest.fixture(scope="module")
def server(pair: Pair) -> Iterator[Served]:
    with serve(pair, queue=256) as running:
        yield running


@pytest.fixture
def there(pair: Pair, server: Served) -> Iterator[RemotePair]:
    made = RemotePair(pair.student, RemoteTeacher(f"{server.url}/v1", "big", on_error="stop"), pair.tokenizer)
    yield made
    made.close()


TEXTS = [[5, 6, 7], [3], [4, 4, 8, 9], [13, 12], [5], [6, 6]]


@pytest.mark.parametrize("told", [20, 1])
def test_states_and_choices_are_those_of_the_teacher_at_hand(pair, there, monkeypatch, told):
    monkeypatch.setattr("wheels.decoding.teacher_forcing.TOLD", told)
    sources = pair.encode(SOURCES)
    assert teacher_choices(there, sources, TEXTS) == teacher_choices(pair, sources, TEXTS)
    lower = 0
    for found, own in zip(teacher_force(there, sources, TEXTS, 4), teacher_force(pair, sources, TEXTS, 4), strict=True):
        assert torch.equal(found.features_TF, own.features_TF)
        torch.testing.assert_close(found.log_p_token_T, own.log_p_token_T, rtol=0, atol=2e-5)
        if told == 20:
            torch.testing.assert_close(found.regret_T, own.regret_T, rtol=0, atol=2e-5)
        assert (found.regret_T <= own.regret_T + 2e-5).all() and (found.regret_T >= 0).all()
        lower += int((found.regret_T < own.regret_T - 1e-3).sum())
    assert (lower > 0) == (told == 1), "a token that is not told has a bound"
    for far, near in zip(
        teacher_shards(there, sources, TEXTS, 4), teacher_shards(pair, sources, TEXTS, 4), strict=True
    ):
        assert torch.equal(far["ids"], near["ids"])
        torch.testing.assert_close(far["rest"], near["rest"], rtol=0, atol=2e-5)


def test_an_environment_writes_the_same_texts_and_goes_on_from_its_states(pair, there):
    found = []
    for each in (pair, there):
        env = DeferralVectorEnv(3, each, ROWS, reward="terminal", metric="chrf", max_new_tokens=8)
        env.reset(seed=1)
        texts = []
        for step in range(8):
            if step == 3:
                (state,) = env.snapshot([int(env.active_B.nonzero()[0])])
                row = int(env.active_B.nonzero()[0])
            env.step((torch.arange(3) + step).numpy() % 2)
            texts.append(env.episodes.texts.tokens_QT.tolist())
        env.fork([row], [state])
        env.step(torch.ones(3).long().numpy())
        texts.append(env.episodes.texts.tokens_QT.tolist())
        found.append(texts)
    assert found[0] == found[1]
    with pytest.raises(WheelsError, match="reads the teacher's logits in every state"):
        DeferralVectorEnv(1, there, ROWS, reward="logprob")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["head", pytest.param("student", marks=pytest.mark.slow)])
def test_what_is_learnt_is_the_same(config: TrainConfig, server: Served, tmp_path: Path, part: str) -> None:  # noqa: F811
    settings = {"seeds": 1, "pseudo_references": 0, "baselines": ("router",), "train": part, "turns": 1}
    few = replace(
        config, calibrate=True, calibration_budgets=(0.5,), calibration_rules=("learned", "maxprob"), **settings
    )
    run(few)
    before = sum(server.service.metrics.counters["prompt_tokens"].values())
    away = {"teacher": f"{server.url}/v1", "teacher_model": "big", "output": str(tmp_path / "far")}
    run(replace(few, **away))
    assert sum(server.service.metrics.counters["prompt_tokens"].values()) > before
    here, there = (Artefact.load(folder, teacher=config.teacher) for folder in (few.output, tmp_path / "far"))
    for rule, heads in here.heads.items():
        for name, value in heads[0].state_dict().items():
            torch.testing.assert_close(there.heads[rule][0].state_dict()[name], value, rtol=0, atol=2e-3, msg=rule)
    for name, value in here.pair.student.state_dict().items():
        torch.testing.assert_close(there.pair.student.state_dict()[name], value, rtol=0, atol=2e-3)
    assert [point.use for point in there.calibration.points] == pytest.approx(
        [point.use for point in here.calibration.points], abs=0.05
    )
    assert read_json(tmp_path / "far" / "deferral" / "config.json")["teacher"] == "big"


def test_references_are_sampled_a_text_at_a_time(config: TrainConfig, there: RemotePair, tmp_path: Path) -> None:  # noqa: F811
    before = there.remote.ledger.requests
    found = with_pseudo_references(there, ROWS, replace(config, pseudo_references=2), tmp_path, Accelerator(cpu=True))
    assert there.remote.ledger.requests == before + 2 * len(ROWS)
    assert [len(row.references) for row in found] == [2] * len(ROWS) and there.remote.span.most == 1


def test_a_student_whose_tokens_are_ruled_is_refused(there):
    there.student.generation_config.forced_bos_token_id = 5
    try:
        with pytest.raises(WheelsError, match="tokens that it must or must not write"):
            scoring_elsewhere(there)
    finally:
        there.student.generation_config.forced_bos_token_id = None


def test_an_address_needs_a_name(config: TrainConfig) -> None:  # noqa: F811
    with pytest.raises(WheelsError, match="give --teacher-model NAME"):
        replace(config, teacher="http://127.0.0.1:9/v1")
    with pytest.raises(WheelsError, match="no http"):
        replace(config, teacher_model="big")


def test_a_server_that_stops_answering_ends_the_environment(pair):
    causal = make_pair("llama")
    with fake_vllm(causal.teacher, causal.tokenizer) as running:
        teacher = RemoteTeacher(running.url, NAME, attempts=1)
        far = RemotePair(causal.student, teacher, causal.tokenizer)
        env = DeferralVectorEnv(2, far, ROWS, reward="terminal", metric="chrf", max_new_tokens=8)
        env.reset(seed=1)
        running.fault = lambda handler, body: handler.error(503, "busy") or True
        with pytest.raises(WheelsError, match=r"gave no answer \(.*code 503"):
            env.step(torch.ones(2).long().numpy())
        far.close()
