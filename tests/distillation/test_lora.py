"""`wheels pretrain --lora-rank`: a plain folder whose weights are the student's and what its adapters add."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.distillation.test_pretrain import config, same, weights
from tests.distillation.test_pretrain_resumes import run_until
from wheels.cli.main import main
from wheels.distillation.run import run
from wheels.errors import WheelsError
from wheels.models import adapters
from wheels.models.adapters import with_lora
from wheels.models.loading import load_model, load_tokenizer, save_model

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
LORA = {"lora_rank": 2, "max_steps": 4, "eval_every": 2, "learning_rate": 0.05}


@pytest.fixture
def student(data, tmp_path) -> str:
    return str(run(config(data, tmp_path / "student", max_steps=1)))


@pytest.mark.slow
@needs_peft
def test_the_student_ends_with_weights_of_the_adapters_rank(data, student, tmp_path, caplog):
    before, after = weights(tmp_path / "student"), weights(run(config(data, tmp_path / "out", student=student, **LORA)))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith((".q.weight", ".k.weight", ".v.weight", ".o.weight")) or ".wi" in name
                           or ".wo" in name for name in changed)  # fmt: skip
    assert {int(torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-4)) for name in changed} <= {
        1,
        2,
    }
    assert "LoRA of rank 2: " in caplog.text and "weights are trained, and merged into the student" in caplog.text


@pytest.mark.slow
@needs_peft
def test_a_run_that_was_cut_short_ends_with_the_same_weights(data, student, tmp_path, monkeypatch):
    whole = run(config(data, tmp_path / "whole", student=student, **LORA))
    settings = config(data, tmp_path / "cut", student=student, **LORA)
    run_until(settings, 3, monkeypatch)
    assert same(weights(run(settings)), weights(whole))


@pytest.mark.slow
@needs_peft
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_an_adapter_writes_what_the_merged_model_writes(student, tmp_path, role, capsys):
    """In place of either model."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(
            load_model(student), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        )
    model.peft_config["default"].base_model_name_or_path = student
    model.save_pretrained(tmp_path / "adapter")
    save_model(model.merge_and_unload(), load_tokenizer(student), tmp_path / "merged")
    outputs = []
    for name in ("adapter", "merged", "student"):
        places = {"student": student, "teacher": student} | {role: str(tmp_path / name)}
        flags = [part for key, value in places.items() for part in (f"--{key}", value)]
        assert (
            main(["generate", *flags, "--rule", "random", "--teacher-budget", "0.5", "--max-new-tokens", "8", "ab cd"])
            == 0
        )
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_without_peft_one_line_says_what_to_install(data, tmp_path, monkeypatch):
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WheelsError, match=r"^lora_rank 2 needs peft; run pip install 'training-wheels\[peft\]'$"):
        run(config(data, tmp_path / "out", student="none", **LORA))


@pytest.mark.parametrize("more", [{}, {"student": "x", "teacher": "y", "objective": "kl", "trainer": "trl"}])
def test_a_student_is_needed_and_our_trainer(data, tmp_path, more):
    with pytest.raises(WheelsError, match="lora_rank 2 is for a --student that there is, and --trainer wheels"):
        config(data, tmp_path / "out", **LORA, **more)


@pytest.mark.slow
@needs_peft
def test_the_seed_alone_draws_the_adapters(student):
    drawn = []
    for seed, before in ((3, 0), (3, 1), (4, 0)):
        model = load_model(student)
        torch.manual_seed(before)
        with_lora(model, 2, seed=seed)
        drawn.append([weight for name, weight in model.named_parameters() if "lora_A" in name])
    assert drawn[0] and all(map(torch.equal, drawn[0], drawn[1]))
    assert not any(map(torch.equal, drawn[0], drawn[2]))


@needs_peft
def test_the_model_begins_as_it_was_and_only_adapters_train(student):
    model, ids = load_model(student), torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids, decoder_input_ids=ids).logits
    merge = with_lora(model, 2, seed=0)
    torch.testing.assert_close(model(input_ids=ids, decoder_input_ids=ids).logits, before, rtol=0, atol=1e-4)
    assert {name.split(".")[-3] for name, weight in model.named_parameters() if weight.requires_grad} == {
        "lora_A", "lora_B",
    }  # fmt: skip
    merge()
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
