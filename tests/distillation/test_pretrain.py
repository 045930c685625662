"""`wheels pretrain` as a whole: it learns, keeps its best, goes on where it was cut short, and says what is wrong."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MambaConfig, T5ForConditionalGeneration, TrainerCallback

from wheels.distillation import callbacks, teacher_outputs
from wheels.distillation.collate import Collator
from wheels.distillation.config import PretrainConfig
from wheels.distillation.generation import write
from wheels.distillation.losses import reverse_kl
from wheels.distillation.run import run
from wheels.errors import WheelsError
from wheels.files import read_json, write_text
from wheels.models.pair import Pair
from wheels.runs import LOCK, last_whole, locked
from wheels.stop import Stopped, stopping

BUILD = {"width": 16, "layers": 2, "heads": 2, "ff": 32, "vocab_size": 300}
QUICK = {"batch_size": 8, "learning_rate": 0.01, "eval_limit": 4, "log_every": 2, "max_target_length": 24}


def config(data: str, output: Path, **options) -> PretrainConfig:
    return PretrainConfig(data=data, output=str(output), **(BUILD | QUICK | options))


def metrics(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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
def test_learns_from_scratch_into_a_plain_folder(data, task, tmp_path, capsys):
    settings = {"max_steps": 120, "eval_every": 40, "learning_rate": 0.02, "dropout": 0.0, "metric": "chrf"}
    folder = run(config(data, tmp_path / "out", **settings))
    assert folder == tmp_path / "out"
    lines = metrics(folder)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] > 4.0
    assert losses[-1] < 1.2, "six words are learnt in 120 steps"
    scores = {line["step"]: line["eval_chrf"] for line in lines if "eval_chrf" in line}
    facts = read_json(folder / "finished.json")
    assert set(scores) == {40, 80, 120}
    assert facts["value"] == max(scores.values()) > 0.0
    assert scores[facts["best_step"]] == facts["value"]
    resolved = read_json(folder / "resolved.json")
    assert resolved["config"]["max_steps"] == 120
    assert resolved["data_digest"] == task_digest(data)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.config.d_model == 16
    assert AutoTokenizer.from_pretrained(folder)("rot")["input_ids"][-1] == 1
    assert not (folder / "checkpoints").exists()
    out, err = capsys.readouterr()
    assert out == "", "standard output is for results"
    assert "120/120" in err
    assert "loss=" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [{"objective": "seqkd"}, {"objective": "kl", "cached_logits": 8}, {"objective": "kl", "lmbda": 1.0}]
)
def test_no_more_rows_are_read_at_once_than_batch_size_says(objective, data, folders, tmp_path, monkeypatch):
    """By either model, in training, scoring, and what is made of a teacher before."""
    read = []
    forward = T5ForConditionalGeneration.forward

    def counted(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        read.append(len(output.logits))
        return output

    monkeypatch.setattr(T5ForConditionalGeneration, "forward", counted)
    student, teacher = folders
    run(config(data, tmp_path / "out", student=student, teacher=teacher, max_steps=1, batch_size=3, **objective))
    assert max(read) == 3


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


def task_digest(data: str) -> str:
    from wheels.data.tasks import load_task

    return load_task(data).digest


def test_the_best_checkpoint_is_kept(data, tmp_path, monkeypatch):
    """Scores fall after the first evaluation: the first weights must come out."""
    scores = iter([50.0, 40.0, 30.0])
    at_first: dict[str, torch.Tensor] = {}

    def evaluator(config, data, rows, names):
        def evaluate(model) -> dict[str, float]:
            if not at_first:
                at_first.update({name: value.clone() for name, value in model.state_dict().items()})
            return {names[0]: next(scores)}

        return evaluate

    monkeypatch.setattr("wheels.distillation.run._evaluator", evaluator)
    folder = run(config(data, tmp_path / "out", max_steps=9, eval_every=3))
    assert read_json(folder / "finished.json")["best_step"] == 3
    kept = weights(folder)
    assert all(torch.equal(value, at_first[name]) for name, value in kept.items())


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


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
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


def test_a_model_that_stands_there_is_not_overwritten(data, folders):
    with pytest.raises(
        WheelsError, match=r"student holds something else \(.*\); give a new or an empty folder by --output"
    ):
        run(config(data, Path(folders[0]), max_steps=1))


@pytest.mark.slow
def test_distils_towards_the_teacher(data, folders, tmp_path):
    """Forward KL falls; the student starts from a folder and shares its tokenizer."""
    options = {"student": folders[0], "teacher": folders[1], "objective": "kl", "max_steps": 60, "eval_every": 60}
    folder = run(config(data, tmp_path / "out", **options, temperature=2.0))
    losses = [line["loss"] for line in metrics(folder) if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert Pair.load(folder, folders[1]).is_seq2seq


def divergence_of_samples(student: str | Path, teacher: str, task) -> float:
    """KL(q || p) per token, over texts that the student samples."""
    torch.manual_seed(0)
    pair = Pair.load(student, teacher)
    sources = pair.encode([row.source for row in task.train])
    written = write(pair.student, sources, pad_id=pair.pad_id, eos_ids=pair.eos_ids, max_new_tokens=8, sample=True)
    rows = [{"source": source, "target": target} for source, target in zip(sources, written, strict=True)]
    batch = Collator(pair.is_seq2seq, pair.pad_id, pair.start_ids)(rows)
    mask = batch.pop("labels") != -100
    with torch.no_grad():
        return reverse_kl(pair.student(**batch).logits[mask], pair.teacher(**batch).logits[mask]).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"value_rate": 0.0}, {"lmbda": 0.5}, {"lmbda": 0.5, "path_distribution": "both", "path_gamma": 0.5}],
    ids=["off-policy, V = 0", "on-policy", "over both laws"],
)
def test_path_consistency_brings_the_student_to_the_teacher(data, task, tmp_path, options):
    teacher = run(config(data, tmp_path / "trained", max_steps=60, eval_limit=0, learning_rate=0.02))
    start = run(config(data, tmp_path / "start", tokenizer=str(teacher), max_steps=20, eval_limit=0, seed=1))
    options = options | {"student": str(start), "teacher": str(teacher), "objective": "pcl", "max_target_length": 8}
    folder = run(config(data, tmp_path / "out", **options, max_steps=100, eval_limit=0))
    before, after = (divergence_of_samples(place, str(teacher), task) for place in (start, folder))
    assert after < 0.8 * before, (before, after)
    assert not any("path_value" in name for name in weights(folder))
    assert AutoModelForSeq2SeqLM.from_pretrained(folder).config.d_model == 16
    facts = read_json(folder / "finished.json")
    assert facts["teacher_tokens"] == metrics(folder)[-1]["teacher_tokens"] > 100 * 8


@pytest.mark.slow
def test_seqkd_learns_the_teachers_outputs_and_pays_once(data, folders, task, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_outputs, "CHUNK", 20)
    calls: list[int] = []
    write = teacher_outputs.write

    def counted(model, sources, **kwargs):
        calls.append(len(sources))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(model, sources, **kwargs)

    monkeypatch.setattr(teacher_outputs, "write", counted)
    options = {"teacher": folders[1], "objective": "seqkd", "max_steps": 2, "max_target_length": 6}
    settings = config(data, tmp_path / "out", **options)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    folder = run(settings)
    assert calls == [20, 20, 8, 8], "48 rows in chunks of 20; only the third was lost"
    run(config(data, tmp_path / "out", **options, resume="never"))
    assert len(calls) == 4
    pair = Pair.load(folders[0], folders[1])
    kept = [row for file in sorted(folder.glob("teacher_outputs/*/*.json")) for row in read_json(file)]
    source = pair.encode([task.train[5].source])
    output = pair.teacher.generate(torch.tensor(source), max_new_tokens=6, do_sample=False)[0].tolist()[1:]
    assert kept[5] == output
    file = sorted(folder.glob("teacher_outputs/*/*.json"))[0]
    file.write_text("[]")
    run(config(data, tmp_path / "out", **options, resume="never"))
    assert calls[4:] == [20] and read_json(file) == kept[:20], "what is damaged is written again"


def test_long_rows_are_left_out_and_counted(data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="wheels"):
        folder = run(config(data, tmp_path / "out", max_steps=1, max_target_length=4))
    rows = read_json(folder / "finished.json")["rows"]
    assert 0 < rows < 48
    assert f"{48 - rows} of 48 training rows are longer than the limits and left out" in caplog.text
    with pytest.raises(WheelsError, match="no training row is within max_source_length 1, max_target_length 24"):
        run(config(data, tmp_path / "none", max_steps=1, max_source_length=1))


def test_a_teacher_that_train_could_not_read_is_told_at_once(data, tmp_path, caplog):
    MambaConfig(vocab_size=64, hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path / "mamba")
    with caplog.at_level(logging.WARNING, logger="wheels"), pytest.raises(WheelsError, match="mamba"):
        run(config(data, tmp_path / "out", teacher=str(tmp_path / "mamba"), objective="kl"))
    assert "cannot read the teacher" in caplog.text and "layers of linear_attention keep one state" in caplog.text


def test_without_validation_the_last_weights_are_kept(data, tmp_path, caplog):
    folder = run(config(f"{data}/train.jsonl", tmp_path / "out", max_steps=3))
    assert "no validation split: nothing is scored, the last weights are kept" in caplog.text
    assert "metric" not in read_json(folder / "finished.json")


def test_causal_student_is_built_with_a_marked_prompt(data, tmp_path):
    folder = run(config(data, tmp_path / "out", family="llama", max_steps=30, eval_every=30, epochs=1.0))
    assert read_json(folder / "finished.json")["prompt"] == "{source} =>"
    losses = [line["loss"] for line in metrics(folder) if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "kl"}, "objective 'kl' needs a teacher: give --teacher DIR, or use ce"),
        ({"lmbda": 0.5}, "lmbda 0.5 needs an objective of kl, rkl, jsd, pcl .* got 'ce'"),
        ({"objective": "kd"}, "objective must be one of ce, kl, rkl, jsd, seqkd, pcl, got 'kd'"),
        ({"objective": "pcl", "teacher": "t", "temperature": 2.0}, "'pcl' is the one of temperature 1, got 2"),
        ({"w": 1.5}, r"w must be in \[0, 1\]"),
        ({"temperature": 0.0}, "temperature must be at least 0.01"),
        ({"prompt": "translate"}, "prompt must contain {source}"),
        ({"epochs": 0.0}, "epochs must be above 0"),
        ({"output": ""}, "output must be a folder"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_configuration_is_checked(options, message):
    with pytest.raises(WheelsError, match=message):
        PretrainConfig(**({"output": "out"} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "/no/such"}, "no student folder '/no/such'"),
        ({"teacher": "/no/such", "objective": "kl"}, "no teacher folder '/no/such'"),
        ({"metric": "blue"}, "metric must be one of .*; did you mean 'bleu'"),
        ({"device": "cuda:1"}, "not on this machine|device must be cpu or cuda"),
        ({"dtype": "float16"}, "float16 trains on a GPU only"),
        ({"heads": 3}, "heads must divide width 16, got 3"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(data, tmp_path, options, message):
    with pytest.raises(WheelsError, match=message) as caught:
        run(config(data, tmp_path / "out", max_steps=1, **options))
    assert "\n" not in str(caught.value)


def test_bfloat16_trains_on_the_cpu_and_saves_float32(data, tmp_path):
    folder = run(config(data, tmp_path / "out", max_steps=2, dtype="bfloat16"))
    assert {value.dtype for value in weights(folder).values()} == {torch.float32}


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_folder_of_something_else_is_left_alone(data, tmp_path, resume):
    place = tmp_path / "mine"
    write_text(place / "checkpoints" / "a", "mine")
    write_text(place / "metrics.jsonl", "mine")
    with pytest.raises(WheelsError, match=r"holds something else \(checkpoints\)"):
        run(config(data, place, max_steps=1, resume=resume))
    assert sorted(path.name for path in place.rglob("*")) == ["a", "checkpoints", "metrics.jsonl"]


def test_one_run_at_a_time(data, tmp_path):
    with (
        locked(tmp_path / "out" / LOCK, tmp_path / "out"),
        pytest.raises(WheelsError, match="out is held by another process"),
    ):
        run(config(data, tmp_path / "out", max_steps=1))
