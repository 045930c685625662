"""`wheels pretrain` that was cut short, by whatever: it goes on to the same bytes."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from transformers import TrainerCallback

from tests.distillation.test_pretrain import config, metrics, same, weights
from tests.marks import slow
from wheels.distillation import callbacks
from wheels.distillation.config import PretrainConfig
from wheels.distillation.run import run
from wheels.errors import WheelsError
from wheels.files import read_json
from wheels.runs import last_whole
from wheels.stop import Stopped, stopping


class CutShort(TrainerCallback):
    """Stands for Ctrl-C or a kill in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def run_until(settings: PretrainConfig, step: int, monkeypatch) -> None:
    """Run, but die before step number `step` + 1."""
    with monkeypatch.context() as patch:
        begin = callbacks.Metrics.on_train_begin

        def on_train_begin(self, *args, **kwargs):
            begin(self, *args, **kwargs)
            patch.setattr(callbacks.Metrics, "on_step_begin", CutShort(step).on_step_begin)

        patch.setattr(callbacks.Metrics, "on_train_begin", on_train_begin)
        with pytest.raises(KeyboardInterrupt):
            run(settings)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_run_goes_on_before_a_checkpoint_that_is_damaged(file, damage, data, tmp_path, monkeypatch, caplog):
    settings = config(data, tmp_path / "out", max_steps=6, eval_every=2, eval_limit=0, dropout=0.1)
    run_until(settings, 5, monkeypatch)
    damaged = tmp_path / "out" / "checkpoints" / "checkpoint-4" / file
    damaged.write_bytes(damaged.read_bytes()[:40]) if damage == "cut" else damaged.unlink()
    run(settings)
    assert "checkpoint-4 is damaged" in caplog.text
    run(config(data, tmp_path / "whole", max_steps=6, eval_every=2, eval_limit=0, dropout=0.1))
    assert same(weights(tmp_path / "out"), weights(tmp_path / "whole"))
    assert metrics(tmp_path / "out") == metrics(tmp_path / "whole")


@pytest.mark.slow
def test_a_kill_behind_the_last_checkpoint_takes_no_further_step(data, tmp_path, monkeypatch):
    options = {"max_steps": 4, "eval_every": 2, "dropout": 0.1}
    run(config(data, tmp_path / "whole", **options))
    settings = config(data, tmp_path / "cut", **options)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("wheels.distillation.run.save_model", interrupt)
        run(settings)
    (tmp_path / "cut").rename(tmp_path / "moved")
    run(config(data, tmp_path / "moved", **options))
    for name in ("model.safetensors", "finished.json", "metrics.jsonl"):
        assert (tmp_path / "moved" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_best_checkpoint_that_is_damaged_is_not_passed_over(data, tmp_path, monkeypatch, caplog):
    scores = {2: 50.0, 4: 40.0, 6: 30.0}
    monkeypatch.setattr("wheels.distillation.run._evaluator", lambda *_: lambda model: {"bleu": next(left)})
    options = {"max_steps": 6, "eval_every": 2, "dropout": 0.1, "metric": "bleu"}
    left = iter(scores.values())
    run(config(data, tmp_path / "whole", **options))
    left = iter(scores.values())
    settings = config(data, tmp_path / "cut", **options)
    run_until(settings, 5, monkeypatch)
    (tmp_path / "cut" / "checkpoints" / "checkpoint-2" / "model.safetensors").unlink()
    left = iter(scores.values())
    run(settings)
    assert "checkpoint-2 is gone; the run goes on before it" in caplog.text
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.slow
def test_sigterm_ends_the_step_saves_it_and_the_run_goes_on(data, tmp_path, monkeypatch):
    options = {"max_steps": 6, "eval_every": 5, "dropout": 0.1}
    run(config(data, tmp_path / "whole", **options))
    settings = config(data, tmp_path / "cut", **options)
    begin = callbacks.Finite.on_step_begin

    def on_step_begin(self, args, state, *more, **others):
        begin(self, args, state, *more, **others)
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped), stopping():
        patch.setattr(callbacks.Finite, "on_step_begin", on_step_begin)
        run(settings)
    assert last_whole(tmp_path / "cut" / "checkpoints").name == "checkpoint-3"
    run(settings)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    facts = (tmp_path / name / "finished.json" for name in ("cut", "whole"))
    assert len({fact.read_text() for fact in facts}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 11, "eval_every": 3, "dropout": 0.2},
        {"epochs": 2.0, "eval_every": 6, "gradient_accumulation": 2, "dropout": 0.2},
        {"epochs": 4.0, "eval_every": 2, "group_by_length": True, "batch_size": 24},
        {"max_steps": 11, "eval_every": 4, "objective": "jsd", "lmbda": 0.5, "dropout": 0.2},
        {"max_steps": 11, "eval_every": 3, "objective": "pcl", "lmbda": 0.5, "dropout": 0.2, "paths": "both"},
    ],
    ids=["mid-epoch", "accumulated", "grouped", "on-policy", "path consistency"],
)
def test_resumes_to_the_same_bytes(data, folders, tmp_path, monkeypatch, options):
    if options.get("objective"):
        options = options | {"teacher": folders[1], "max_target_length": 6}
    run(config(data, tmp_path / "whole", **options))
    settings = config(data, tmp_path / "cut", **options)
    run_until(settings, 5, monkeypatch)
    assert (tmp_path / "cut" / "checkpoints").exists()
    assert not (tmp_path / "cut" / "config.json").exists(), "nothing half-done looks like a model"
    run(settings)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    other = config(data, tmp_path / "other", **(options | {"seed": 1}))
    run(other)
    assert not same(weights(tmp_path / "other"), weights(tmp_path / "whole")), "the comparison can see a difference"


@pytest.mark.slow
def test_resumes_twice_and_past_a_torn_checkpoint(data, tmp_path, monkeypatch):
    options = {"max_steps": 9, "eval_every": 2, "dropout": 0.1}
    run(config(data, tmp_path / "whole", **options))
    settings = config(data, tmp_path / "cut", **options)
    run_until(settings, 3, monkeypatch)
    run_until(settings, 7, monkeypatch)
    checkpoints = tmp_path / "cut" / "checkpoints"
    state = checkpoints / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:40])
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    assert last_whole(checkpoints) != checkpoints / "checkpoint-6"
    run(settings)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


@pytest.mark.slow
def test_second_run_is_instant_and_another_is_refused(data, tmp_path, monkeypatch):
    settings = config(data, tmp_path / "out", max_steps=2)
    run(settings)
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("wheels.distillation.run.load_training_data", None)
        assert run(settings) == tmp_path / "out"
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(
        WheelsError, match=r"out holds a run with seed 0, not 1; give another --output, or --resume never"
    ):
        run(config(data, tmp_path / "out", max_steps=2, seed=1))
    run(config(data, tmp_path / "out", max_steps=2, seed=1, resume="never"))
    assert read_json(tmp_path / "out" / "run.json")["identity"]["seed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", *slow("tokenizer.json")])
def test_a_finished_run_whose_files_are_damaged_is_made_again(name, data, tmp_path, caplog):
    settings = config(data, tmp_path / "out", max_steps=2)
    run(settings)
    file = tmp_path / "out" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    run(settings)
    assert f"{name} is gone or damaged; it is made again" in caplog.text
    assert file.read_bytes() == whole


def test_a_run_whose_data_was_moved_is_the_same(data, tmp_path, monkeypatch):
    run(config(data, tmp_path / "out", max_steps=2))
    elsewhere = str(shutil.copytree(data, tmp_path / "elsewhere"))
    monkeypatch.setattr("wheels.distillation.run.load_training_data", None)
    assert run(config(elsewhere, tmp_path / "out", max_steps=2)) == tmp_path / "out"
