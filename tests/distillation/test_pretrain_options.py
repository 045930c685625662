"""Options of transformers in a file: read, handed to the trainer, and part of what a run is known by."""

from __future__ import annotations

import json

import pytest

from tests.distillation.test_pretrain import config, same, weights
from wheels.distillation.config import PretrainConfig
from wheels.distillation.options import read_config, read_options
from wheels.distillation.run import run, workload
from wheels.errors import WheelsError
from wheels.files import write_text


def test_trl_parser_reads_a_configuration(tmp_path):
    file = write_text(tmp_path / "c.yaml", "output: out\nlearning_rate: 1e-3\nmax_steps: 7\nobjective: ce\n")
    assert read_config(file) == PretrainConfig(output="out", learning_rate=1e-3, max_steps=7)
    for text, message in (
        ("output: out\nlerning_rate: 1\n", r"c.yaml: unknown key 'lerning_rate'; did you mean 'learning_rate'\?"),
        ("output: out\nmax_steps: many\n", "c.yaml: .*max_steps.*'many'"),
        ("output: out\nobjective: kd\n", "c.yaml: objective must be one of"),
        ("epochs: 1\n", "c.yaml: .*output"),
        ("- 1\n", "c.yaml:1: must hold lines of `key: value`, got list"),
        ("a: [\n", "c.yaml:2: not YAML"),
    ):
        write_text(file, text)
        with pytest.raises(WheelsError, match=message):
            read_config(file)
    with pytest.raises(WheelsError, match=r"cannot read .*none\.yaml"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.slow
def test_further_options_reach_the_trainer(data, tmp_path, monkeypatch):
    from transformers import Seq2SeqTrainingArguments

    file = write_text(tmp_path / "o.yaml", "weight_decay: 0.5\nmax_grad_norm: 1e-9\n")
    assert read_options(file, Seq2SeqTrainingArguments) == {"weight_decay": 0.5, "max_grad_norm": 1e-9}
    plain = run(config(data, tmp_path / "plain", max_steps=2))
    decayed = run(config(data, tmp_path / "decayed", max_steps=2, options=str(file)))
    assert not same(weights(plain), weights(decayed))
    for text, message in (
        ("weight_dekay: 1\n", "o.yaml: unknown key 'weight_dekay'; did you mean 'weight_decay'"),
        ("seed: 1\n", "o.yaml: seed is set by --seed; take it out of the file"),
        ("weight_decay: much\n", "o.yaml: .*weight.decay.*'much'"),
    ):
        write_text(file, text)
        with pytest.raises(WheelsError, match=message):
            run(config(data, tmp_path / "wrong", max_steps=2, options=str(file)))


def test_what_stands_in_the_options_is_part_of_the_run(data, tmp_path):
    options = write_text(tmp_path / "options.yaml", "weight_decay: 0.0\n")
    settings = config(data, tmp_path / "out", max_steps=2, options=str(options))
    run(settings)
    write_text(options, "weight_decay: 0.5\n")
    with pytest.raises(WheelsError, match=r"holds a run with options_digest '\w{16}', not '\w{16}'"):
        run(settings)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["flag", "file"])
def test_tensorboard_keeps_what_metrics_hold_when_the_checkpoints_are_gone(data, tmp_path, by):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"options": str(write_text(tmp_path / "o.yaml", "report_to: tensorboard\n"))}
    asked = {"report_to": ("tensorboard",)} if by == "flag" else options
    folder = run(config(data, tmp_path / "out", max_steps=4, log_every=2, **asked))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [
        (line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines if "loss" in line
    ]
    assert events


def test_a_service_is_asked_for_once(data, tmp_path, monkeypatch):
    file = write_text(tmp_path / "o.yaml", "report_to: tensorboard\n")
    with pytest.raises(WheelsError, match=r"o\.yaml: report_to is set by --report-to too; give one of them"):
        monkeypatch.setattr("wheels.distillation.run.check_reports", lambda names: None)
        run(config(data, tmp_path / "out", options=str(file), report_to=("trackio",)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 2.5, "batch_size": 4}, "10 rows: 8 steps of 4 rows; 3 validation rows scored every 3 steps"),
        ({"max_steps": 7, "eval_every": 2}, "10 rows: 7 steps of 32 rows; 3 validation rows scored every 2 steps"),
        ({"epochs": 1, "batch_size": 2, "gradient_accumulation": 2}, "10 rows: 3 steps of 4 rows; 3 valid"),
    ],
)
def test_the_work_of_a_run_in_words(settings, words):
    assert workload(PretrainConfig(output="out", **settings), 10, 3).startswith(words)
    assert workload(PretrainConfig(output="out", **settings), 10, 0).endswith("; nothing is scored")
