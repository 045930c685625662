"""`wheels train` that is refused, stops at what is no number, or finds another run in its folder."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.agents.test_run import config as config  # the fixture
from tests.decoding.tiny import make_pair
from wheels.agents.config import TrainConfig
from wheels.agents.rl.agent import PCLAgent
from wheels.agents.run import run
from wheels.agents.trainer import Trainer
from wheels.errors import WheelsError
from wheels.policy.head import DeferralHead


@pytest.mark.slow
def test_a_run_is_known_by_what_its_folders_hold(
    config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever they lie; a student that was trained on since is another one."""
    run(config)
    shutil.copytree(tmp_path / "student", tmp_path / "elsewhere" / "student")
    for split in ("train", "validation"):
        shutil.copy(tmp_path / f"{split}.jsonl", tmp_path / "elsewhere")
    moved = replace(config, student=str(tmp_path / "elsewhere" / "student"), data=str(tmp_path / "elsewhere"))
    with caplog.at_level("INFO"):
        run(moved)
    assert "is done already" in caplog.text
    make_pair("t5").save_teacher(tmp_path / "elsewhere" / "student")
    with pytest.raises(WheelsError, match=r"holds a run with student_digest '\w{16}', not '\w{16}'; give another"):
        run(moved)
    with (tmp_path / "train.jsonl").open("a") as rows:
        rows.write('{"source": "a", "target": "b"}\n')
    with pytest.raises(WheelsError, match="holds a run with data_digest"):
        run(config)


@pytest.mark.slow
def test_an_unfinished_run_is_not_continued_with_other_settings(config: TrainConfig) -> None:
    run(config)
    with pytest.raises(WheelsError, match=r"holds a run with alpha 0\.25, not 0\.9; give another --output"):
        run(replace(config, alpha=0.9))


def test_a_metric_that_there_is_not_is_refused(config: TrainConfig) -> None:
    with pytest.raises(WheelsError, match=r"metric must be one of .*did you mean 'rougeL'"):
        run(replace(config, metric="rougel"))


@pytest.mark.slow
def test_train_stops_at_the_loss_of_a_step(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    once, calls = PCLAgent.residuals, iter(range(99))

    def residuals(self: PCLAgent, forks: Any) -> torch.Tensor:
        return once(self, forks) * (math.nan if next(calls) == 2 else 1.0)

    monkeypatch.setattr(PCLAgent, "residuals", residuals)
    with pytest.raises(WheelsError, match=r"^step 2 of the forks: the loss is nan"):
        run(replace(config, seeds=1))
    output = Path(config.output)
    assert not (output / "config.json").exists() and not (output / "deferral").exists()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (output / "metrics.jsonl").open()]
    assert not any("round" in line for line in lines)


@pytest.mark.slow
def test_train_stops_at_a_price_and_at_heads(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PCLAgent, "price", lambda self, budget_B: torch.full_like(budget_B, math.inf))
        with pytest.raises(WheelsError, match=r"price"):
            run(replace(config, agent="pcl"))
    with monkeypatch.context() as patch:
        once = Trainer.train

        def broken(self: Trainer) -> dict[str, DeferralHead]:
            heads = once(self)
            with torch.no_grad():
                next(iter(heads["learned"].parameters())).fill_(math.nan)
            return heads

        patch.setattr(Trainer, "train", broken)
        with pytest.raises(WheelsError, match=r"^end of seed 0, rule learned: the weight"):
            run(replace(config, output=f"{config.output}-2"))
    assert not (Path(f"{config.output}-2") / "config.json").exists()


@pytest.mark.slow
def test_a_start_that_failed_holds_nothing(config: TrainConfig, tmp_path: Path) -> None:
    """A teacher that cannot be loaded does not take the output from the one that can."""
    wrong = shutil.copytree(tmp_path / "teacher", tmp_path / "wrong")
    (wrong / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WheelsError, match="cannot load the teacher"):
        run(replace(config, teacher=str(wrong)))
    assert not Path(config.output).exists()
    run(replace(config, rounds=0, seeds=1))
    assert (Path(config.output) / "deferral" / "config.json").is_file()


def test_what_is_needed_at_the_end_is_looked_for_first(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").unlink()
    with pytest.raises(WheelsError, match="has no validation split"):
        run(replace(config, calibrate=True, calibration_budgets=(0.5,)))
    assert not Path(config.output).exists()


def test_a_folder_of_something_else_is_left_alone(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(WheelsError, match=r"holds something else \(thesis.tex\)"):
        run(replace(config, output=str(tmp_path / "mine")))


@pytest.mark.slow
def test_a_kept_state_that_is_damaged_is_made_again(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    once = Trainer._settle

    def killed(self: Trainer, agent: Any) -> None:
        if self.run.seed == 1:  # what the first seed has kept is read again
            raise KeyboardInterrupt
        once(self, agent)

    monkeypatch.setattr(Trainer, "_settle", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    kept = sorted((Path(config.output) / ".training").rglob("*.pt"))
    names = {file.name for file in kept}
    expected = {"states-00000.pt", "forks-1-00000.pt", "gains-00000.pt", "pairs-00000.pt", "gate-00000.pt"}
    assert names >= {*expected, "references-00000.pt", "process-0.pt"}, sorted(names)
    older = ("seed-0/checkpoint-2", "seed-1/checkpoint-1")  # read where the last one is damaged
    contents = {file: file.read_bytes() for file in kept if not file.parent.as_posix().endswith(older)}
    for file, whole in contents.items():
        for content in (whole[: len(whole) // 2], packed({"x": 1})):
            file.write_bytes(content)
            caplog.clear()
            with pytest.raises(KeyboardInterrupt):
                run(config)
            damaged = file.parent if file.name == "process-0.pt" else file
            within = file.relative_to(Path(config.output) / ".training").as_posix()
            if within.startswith(("seed-0/forks", "seed-0/gains", "seed-0/pairs", "seed-0/reinforce/")):
                continue  # the heads that were fitted to these are kept too, so that nobody reads them
            assert f"{damaged} is damaged; it is made again" in caplog.text
            assert file.read_bytes() == whole


def packed(content: Any) -> bytes:
    """A file of torch that holds something else."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
