"""`--options`: what does something here is taken, and anything else is refused in one line that names the file."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from pathlib import Path

import pytest
from transformers import Seq2SeqTrainingArguments

from wheels.distillation import run as pretrain
from wheels.distillation.config import PretrainConfig
from wheels.distillation.options import OF_OURS, OF_TRL, OURS, REASONS
from wheels.errors import WheelsError
from wheels.files import write_text

SMALL = {"width": 16, "layers": 1, "heads": 2, "ff": 32, "vocab_size": 300, "batch_size": 10, "learning_rate": 0.01}


def config(data: str, folder: Path, text: str, **more) -> PretrainConfig:
    """Seven steps of 48 rows, dropout among them, and two validation rows."""
    options = write_text(folder / "o.yaml", text) if text else None
    return PretrainConfig(
        data=data, output=str(folder / "out"), options=None if options is None else str(options), dropout=0.1,
        **({"max_steps": 7, "eval_limit": 2, "eval_every": 7, "log_every": 2, "max_target_length": 8} | SMALL | more),
    )  # fmt: skip


def test_no_option_is_taken_and_refused() -> None:
    assert not set(OURS) & (OF_OURS | OF_TRL)
    assert not set(REASONS) & (OF_OURS | OF_TRL | set(OURS))
    known = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    assert len(known & set(REASONS)) >= 6, "reasons are for options that there are"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label_smoothing_factor: 0.1", r"label_smoothing_factor has no effect here \(the loss is that of --objective"),
        ("predict_with_generate: true", r"predict_with_generate has no effect here \(scores are always"),
        ("generation_num_beams: 4", "generation_num_beams has no effect"),
        ("sortish_sampler: true", "sortish_sampler has no effect here; take it out of the file"),
        ("push_to_hub: true", r"push_to_hub has no effect here \(nothing of a run is pushed"),
        ("hub_token: secret", "hub_token has no effect"),
        ("do_train: true", "do_train has no effect"),
        ("per_device_eval_batch_size: 1", "per_device_eval_batch_size has no effect"),
        ("prediction_loss_only: true", "prediction_loss_only has no effect"),
        ("average_tokens_across_devices: false", "average_tokens_across_devices has no effect"),
        ("remove_unused_columns: true", "remove_unused_columns has no effect"),
        ("bf16_full_eval: true", "bf16_full_eval has no effect"),
        ("disable_tqdm: true", "disable_tqdm has no effect"),
        ("log_level: debug", "log_level has no effect"),
        ("optim_args: a=1", "optim_args has no effect without optim"),
        ("train_sampling_strategy: group_by_length", "must be random or sequential, got 'group_by_length'"),
        ("eval_strategy: epoch", "eval_strategy is set by --eval-every"),
        ("load_best_model_at_end: false", "load_best_model_at_end is set by --eval-limit"),
        ("metric_for_best_model: chrf", "metric_for_best_model is set by --metric"),
        ("resume_from_checkpoint: x", "resume_from_checkpoint is set by --resume"),
        ("optim: sdg", "sdg"),
        ("deepspeed: none.json", "."),
        ("report_to: nowhere", "nowhere"),
        ("weight_decay: {a: 1}", "weight_decay must be one value, got {'a': 1}"),
        ("weight_decay: [1]", r"weight_decay must be one value, got \[1\]"),
        ("weight_decay: null", "weight_decay must be one value, got None"),
        ("weight_decay: .nan", "weight_decay must be a finite number, got nan"),
        ("max_grad_norm: .inf", "max_grad_norm must be a finite number, got inf"),
        ("weight_decay: true", "True"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(data, tmp_path, monkeypatch, text: str, said: str) -> None:
    monkeypatch.setattr(pretrain, "load_training_data", pytest.fail)
    with pytest.raises(WheelsError, match=rf"o\.yaml: [^\n]*{said}[^\n]*\Z"):
        pretrain.run(config(data, tmp_path, text))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("optim: adamw_bnb_8bit", "bitsandbytes"),
        ("optim: galore_adamw", "galore_torch"),
        ("report_to: wandb", "wandb"),
        ("report_to: [tensorboard]", "tensorboard"),
        ("deepspeed: {a: 1}", "deepspeed"),
    ],
)
def test_a_package_that_is_absent_is_named_before_any_work(
    data, tmp_path, monkeypatch, text: str, package: str
) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is there")
    monkeypatch.setattr(pretrain, "load_training_data", pytest.fail)
    with pytest.raises(WheelsError, match=rf"o\.yaml: [^\n]*(?i:{package})"):
        pretrain.run(config(data, tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "lr_scheduler_kwargs: much",
        "accelerator_config: {split: 1}",
        "parallelism_config: x",
        "lr_scheduler_kwargs: [1]",
        "optim: [1]",
        "report_to: 5",
        "adam_beta1: 5",
        "lr_scheduler_kwargs: {foo: 1}",
        "dataloader_num_workers: -1",
        "use_liger_kernel: true",
    ],
)
def test_what_the_trainer_cannot_begin_with_is_one_line(data, tmp_path, text: str) -> None:
    if "liger" in text and importlib.util.find_spec("liger_kernel") is not None:
        pytest.skip("liger_kernel is there")
    with pytest.raises(WheelsError, match=r"o\.yaml: [^\n]*\Z"):
        pretrain.run(config(data, tmp_path, text))


def test_an_error_after_the_first_step_is_no_fault_of_the_options(data, tmp_path, monkeypatch) -> None:
    def breaks(*_args, **_kwargs):
        raise ZeroDivisionError("of the code")

    monkeypatch.setattr("wheels.distillation.trainer.cross_entropy", breaks)
    monkeypatch.setattr("wheels.distillation.trainer.distillation_loss", breaks)
    with pytest.raises(ZeroDivisionError, match="of the code"):
        pretrain.run(config(data, tmp_path, "weight_decay: 0.1"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "lr_scheduler_kwargs: {num_cycles: 2}", "optim: sgd", "weight_decay: 0.5", "adam_beta1: 0.5", "adam_beta2: 0.5",
        "adam_epsilon: 0.1", "max_grad_norm: 0.001", "data_seed: 5", "train_sampling_strategy: sequential",
        "dataloader_drop_last: true",
    ],
)  # fmt: skip
def test_what_is_taken_changes_what_is_learnt(data, tmp_path, text: str) -> None:
    made = set()
    for name, given in (("plain", ""), ("with", text)):
        out = pretrain.run(config(data, tmp_path / name, given))
        made.add(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
    assert len(made) == 2


def test_an_evaluation_at_the_start_needs_rows(data, tmp_path) -> None:
    with pytest.raises(WheelsError, match="eval_on_start needs rows to score"):
        pretrain.run(config(data, tmp_path, "eval_on_start: true", eval_limit=0, max_steps=1))
