"""Training whose numbers end stops in one line that names its step, and leaves no model of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wheels.agents.regression.fit import FitConfig, fit
from wheels.distillation import run as pretrain
from wheels.distillation.config import PretrainConfig
from wheels.distillation.trainer import KDTrainer
from wheels.errors import WheelsError
from wheels.finite import check_finite, check_weights
from wheels.models.loading import save_model
from wheels.models.pair import Pair

NUMBERS = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("value", NUMBERS)
def test_the_first_that_is_none_is_named_with_its_step(value: float) -> None:
    check_finite("step 1", {"loss": 1e300, "price": 0.0})
    with pytest.raises(WheelsError, match=rf"^step 7: the price is {value}, no finite number; lower the learning rate"):
        check_finite("step 7", {"loss": 0.0, "price": value, "use": value})


@pytest.mark.parametrize("value", NUMBERS)
def test_a_model_of_them_is_not_saved(value: float, t5: Pair, tmp_path: Path) -> None:
    with torch.no_grad():
        list(t5.student.parameters())[-1].view(-1)[3] = value
    with pytest.raises(WheelsError, match=r"weight .* no finite number"):
        t5.save_student(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    save_model(t5.teacher, t5.tokenizer, tmp_path / "new")


def settings(data: str, folders: tuple[str, str], output: Path, **options: Any) -> PretrainConfig:
    student, teacher = folders
    return PretrainConfig(
        data=data, output=str(output), student=student, teacher=teacher, batch_size=8, eval_limit=2, max_steps=6,
        eval_every=2, log_every=50, max_target_length=16, **options,
    )  # fmt: skip


def is_refused(config: PretrainConfig, said: str) -> None:
    """The run ends with these words, and neither it nor its checkpoints hold a model of what was no number."""
    with pytest.raises(WheelsError, match=said):
        pretrain.run(config)
    assert not (Path(config.output) / "config.json").exists()
    assert not (Path(config.output) / "finished.json").exists()
    for file in Path(config.output).glob("checkpoints/*/model.safetensors"):
        from safetensors.torch import load_file

        assert all(bool(weight.isfinite().all()) for weight in load_file(file).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "objective"), [*((value, "ce") for value in NUMBERS), (math.nan, "kl"), (math.nan, "pcl")]
)
def test_pretrain_stops_at_the_loss(
    value: float, objective: str, data: str, folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = KDTrainer.compute_loss

    def compute_loss(self: KDTrainer, *args: Any, **kwargs: Any) -> Any:
        return once(self, *args, **kwargs) * (value if self.state.global_step == 3 else 1.0)

    monkeypatch.setattr(KDTrainer, "compute_loss", compute_loss)
    is_refused(settings(data, folders, tmp_path / "out", objective=objective), r"^step 4: the loss is -?(nan|inf), ")


def test_pretrain_stops_at_a_gradient_whose_loss_is_a_number(
    data: str, folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = KDTrainer.training_step

    def training_step(self: KDTrainer, model: torch.nn.Module, *args: Any) -> torch.Tensor:
        loss = once(self, model, *args)
        if self.state.global_step == 1:
            next(iter(model.parameters())).grad[0] = math.inf  # type: ignore[index]
        return loss

    monkeypatch.setattr(KDTrainer, "training_step", training_step)
    is_refused(settings(data, folders, tmp_path / "out"), r"^step 2: the gradient's norm is nan, .*learning_rate")


def test_pretrain_stops_at_weights_before_they_are_kept(data: str, folders: tuple[str, str], tmp_path: Path) -> None:
    """A rate of 1e9 at the last step is followed by no loss."""
    config = settings(data, folders, tmp_path / "out", learning_rate=1e9, warmup=0.0)
    is_refused(replace(config, max_steps=60, eval_every=60), r"^step \d+: the .* no finite number; lower learning_rate")


def test_pretrain_stops_at_a_score(
    data: str, folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "_evaluator", lambda *_: lambda model: {"bleu": math.nan})
    is_refused(settings(data, folders, tmp_path / "out"), "^step 2: the eval_bleu is nan")


def test_a_fit_stops_at_its_loss_and_at_its_weights() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    steps = iter(range(99))

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return weight.sum() * (math.nan if next(steps) == 2 else 1.0)

    with pytest.raises(WheelsError, match=r"^step 3 of the gate: the loss is nan"):
        fit([weight], loss, 8, FitConfig(epochs=2, batch=2), name="gate")
    with pytest.raises(WheelsError, match=r"^step 1 of the fit: the sum of the weights is nan"):
        fit([weight], lambda batch: (weight * 0).sqrt().sum(), 2, FitConfig(epochs=1, batch=2, rise=0.5))


def test_weights_are_named() -> None:
    layer = torch.nn.Linear(2, 2)
    check_weights(layer, "here")
    torch.nn.init.constant_(layer.bias, math.inf)
    with pytest.raises(WheelsError, match="here: the weight bias is inf"):
        check_weights(layer, "here")
