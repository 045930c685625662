"""TRL's trainer on our rows: it runs for causal pairs, and what it does not have is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file

from tests.marks import slow
from wheels.distillation.config import PretrainConfig
from wheels.distillation.run import run
from wheels.errors import WheelsError
from wheels.files import read_json


def config(data: str, output: Path, student: str, teacher: str, **options) -> PretrainConfig:
    settings = {
        "student": student, "teacher": teacher, "prompt": "{source} =>", "trainer": "trl", "objective": "jsd",
        "max_steps": 2, "batch_size": 4, "log_every": 1, "max_target_length": 24, "learning_rate": 0.01,
    }  # fmt: skip
    return PretrainConfig(data=data, output=str(output), **(settings | options))


@pytest.fixture
def causal(llama, tmp_path) -> tuple[str, str]:
    return str(llama.save_student(tmp_path / "q")), str(llama.save_teacher(tmp_path / "p"))


@pytest.mark.parametrize("lmbda", [*slow(0.0), 1.0])
def test_two_steps_of_gkd(data, causal, tmp_path, lmbda):
    folder = run(config(data, tmp_path / "out", *causal, lmbda=lmbda, max_target_length=12 if lmbda else 24))
    facts = read_json(folder / "finished.json")
    assert (facts["steps"], facts["trainer"]) == (2, "trl")
    before, after = load_file(f"{causal[0]}/model.safetensors"), load_file(folder / "model.safetensors")
    assert any(not before[name].equal(value) for name, value in after.items())
    assert [line.count('"loss"') for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 1]
    assert constants.HF_HUB_DISABLE_TELEMETRY


@pytest.mark.slow
def test_first_loss_is_ours(data, causal, tmp_path):
    """Same rows, same beta, T = 1: the loss before the first step is one number."""
    losses = []
    for trainer in ("trl", "wheels"):
        folder = run(config(data, tmp_path / trainer, *causal, trainer=trainer, beta=0.3, max_steps=1, batch_size=48))
        losses.append(read_first_loss(folder))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def read_first_loss(folder: Path) -> float:
    import json

    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "ce"}, "objective of --trainer trl must be one of kl, rkl, jsd, got 'ce'"),
        ({"w": 0.5}, "neither w nor a temperature in its loss: both must be 1"),
        ({"group_by_length": True}, "knows no --group-by-length; use --trainer wheels"),
        ({"temperature": 2.0}, "neither w nor a temperature in its loss: both must be 1"),
    ],
)
def test_settings_it_does_not_have(data, causal, tmp_path, options, message):
    with pytest.raises(WheelsError, match=message):
        run(config(data, tmp_path / "out", *causal, **options))


def test_seq2seq_is_refused_with_the_reason(data, folders, tmp_path):
    with pytest.raises(
        WheelsError, match=r"needs a causal pair, for TRL's trainers feed no encoder: student '.*student'"
    ):
        run(config(data, tmp_path / "out", *folders))
