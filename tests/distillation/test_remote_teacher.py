"""`wheels pretrain` with a teacher at an address: the cache and the student are those of the teacher in a folder."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.decoding.remote.fake_vllm import NAME, fake_vllm
from tests.distillation.test_pretrain import config, weights
from wheels.distillation import cached_teacher
from wheels.distillation.config import PretrainConfig
from wheels.distillation.run import run
from wheels.errors import WheelsError
from wheels.files import read_json
from wheels.models.artefact import Artefact
from wheels.models.pair import Pair
from wheels.policy.calibration import Calibration

QUICK = {"objective": "kl", "max_steps": 4, "eval_limit": 0, "cache_temperatures": (1.0,), "limit": 12}


def caches(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(file) for file in sorted(folder.glob("teacher_cache/*/*.safetensors"))]


def check_same(here: Path, there: Path) -> None:
    found = list(zip(caches(here), caches(there), strict=True))
    assert found
    for own, told in found:
        assert own.keys() == told.keys()
        for name, tensor in own.items():
            if name == "ids":
                assert torch.equal(told[name], tensor)
            else:
                torch.testing.assert_close(told[name].float(), tensor.float(), rtol=1e-3, atol=2e-4)
    for name, tensor in weights(here).items():
        torch.testing.assert_close(weights(there)[name], tensor, rtol=0, atol=5e-4)
    assert read_json(here / "finished.json")["teacher_tokens"] == read_json(there / "finished.json")["teacher_tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("k", [8, 300])
def test_a_served_encoder_decoder_teaches_as_one_at_hand(t5: Pair, data, tmp_path, k):
    if not all(map(find_spec, ("fastapi", "uvicorn", "openai"))):
        pytest.skip("what `wheels serve` needs is not installed (the extras serve and test)")
    from tests.decoding.serve.harness import served

    k = min(k, t5.vocab_size)
    student, teacher = str(t5.save_student(tmp_path / "s")), str(t5.save_teacher(tmp_path / "t"))
    settings = {"student": student, "cached_logits": k} | QUICK
    here = run(config(data, tmp_path / "here", teacher=teacher, **settings))
    artefact = Artefact(t5, {}, Calibration(), student_name="big")
    with served(artefact, rule="random") as server:
        there = run(config(data, tmp_path / "there", teacher=f"{server.url}/v1", teacher_model="big", **settings))
    check_same(here, there)
    assert not any(torch.equal(value, load_file(Path(student) / "model.safetensors")[name])
                   for name, value in weights(here).items() if "weight" in name), "nothing is learnt"  # fmt: skip


@pytest.mark.slow
def test_a_server_of_vllms_fields_teaches_a_causal_student_and_is_asked_once(llama: Pair, data, tmp_path, monkeypatch):
    student, teacher = str(llama.save_student(tmp_path / "s")), str(llama.save_teacher(tmp_path / "t"))
    settings = {"student": student, "cached_logits": 8} | QUICK
    here = run(config(data, tmp_path / "here", teacher=teacher, **settings))
    away = {"teacher_model": NAME, "cache": str(tmp_path / "there" / "teacher_cache"), **settings}
    with fake_vllm(llama.teacher, llama.tokenizer) as server:
        there = run(config(data, tmp_path / "there", teacher=server.url, **away))
        assert sum("prompt_logprobs" in body for body in server.bodies) == 1
    check_same(here, there)
    again = run(config(data, tmp_path / "again", teacher="http://127.0.0.1:9/v1", **away))
    assert all(torch.equal(tensor, weights(there)[name]) for name, tensor in weights(again).items())
    monkeypatch.setattr(cached_teacher, "open_cache", None)
    run(config(data, tmp_path / "there", teacher="http://127.0.0.1:9/v1", **away))  # a finished run asks nobody


@pytest.mark.slow
def test_a_server_that_fails_ends_the_run_in_one_line(llama: Pair, data, tmp_path):
    settings = {"student": str(llama.save_student(tmp_path / "s")), "cached_logits": 21, "teacher_model": NAME} | QUICK
    with fake_vllm(llama.teacher, llama.tokenizer) as server:
        with pytest.raises(WheelsError, match="greater than max: 20"):
            run(config(data, tmp_path / "out", teacher=server.url, **settings))
        found = run(
            config(data, tmp_path / "out", teacher=server.url, **(settings | {"cached_logits": 20, "resume": "never"}))
        )
    assert caches(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher_model": None}, "give --teacher-model NAME"),
        ({"cached_logits": 0}, "tells its likeliest tokens alone, once: give --cached-logits K"),
        ({"temperature": 2.0}, "temperature 1; leave out other temperatures"),
        ({"cache_temperatures": (1.0, 3.0)}, "temperature 1; leave out other temperatures"),
        ({"student": None}, "has no tokenizer to take: give --student or --tokenizer"),
        ({"objective": "seqkd"}, "needs an objective of kl, rkl, jsd"),
        ({"teacher": "folder"}, "is a name at a server, but teacher is no http"),
        ({"teacher": "folder", "teacher_model": None, "teacher_key": "KEY"}, "is for a teacher behind an address"),
        ({"teacher_key": "NOT_THERE"}, "--teacher-key must name an environment variable"),
    ],
)  # fmt: skip
def test_refuses(options, words):
    good = {"output": "o", "student": "s", "teacher": "http://127.0.0.1:9/v1", "teacher_model": "big"}
    with pytest.raises(WheelsError, match=words):
        PretrainConfig(**(good | {"objective": "kl", "cached_logits": 8} | options))
