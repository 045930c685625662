"""Options of transformers in a file: read, handed to the trainer, and part of what a run is known by."""

from __future__ import annotations

import pytest

from tests.distillation.test_pretrain import config, same, weights
from wheels.distillation.config import PretrainConfig
from wheels.distillation.options import read_config, read_options
from wheels.distillation.run import run
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
