"""`wheels pretrain` as a whole: it learns, keeps its best, goes on where it was cut short, and says what is wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MambaConfig, T5ForConditionalGeneration

from wheels.distillation import teacher_outputs
from wheels.distillation.collate import Collator
from wheels.distillation.config import PretrainConfig
from wheels.distillation.generation import write
from wheels.distillation.losses import reverse_kl
from wheels.distillation.run import run
from wheels.errors import WheelsError
from wheels.files import read_json, write_text
from wheels.models.pair import Pair
from wheels.runs import LOCK, locked

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
