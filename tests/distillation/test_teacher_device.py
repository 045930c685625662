"""A teacher on a device of its own teaches the same; the second device is played (`tests/decoding/elsewhere.py`)."""

import copy

import pytest
import torch

from tests.decoding.elsewhere import SecondDevice, moved
from tests.distillation.test_pretrain import config
from tests.distillation.test_two_tokenizers import BOTH, models  # noqa: F401
from wheels.data.tasks import load_task
from wheels.distillation.run import make_trainer, run
from wheels.distillation.scorers import LocalScorer
from wheels.distillation.teacher_cache import CacheSettings
from wheels.distillation.training_data import load_training_data, teacher_digest, training_examples
from wheels.errors import WheelsError


@pytest.mark.slow
def test_the_loss_and_what_is_cached_are_the_same(data, folders, tmp_path):
    student, teacher = folders
    settings = config(data, tmp_path / "out", student=student, teacher=teacher, **BOTH)
    task = load_task(data)
    loaded = load_training_data(settings, task)
    examples = training_examples(settings, loaded, task.train, tmp_path)
    trainer = make_trainer(settings, loaded, examples, tmp_path / "out", [], ("chrf",))
    kept = CacheSettings("teacher", "float32", 4, (1.0,), loaded.pair.vocab_size, loaded.pair.start_ids)

    def taught() -> tuple[float, list[dict[str, torch.Tensor]]]:
        loss = trainer.compute_loss(loaded.student, trainer.collator(examples[:3]), num_items_in_batch=10)
        return loss.item(), LocalScorer(trainer.teacher, kept, trainer.collator, 2)(examples[:5])

    loss, scored = taught()
    trainer.teacher = moved(copy.deepcopy(trainer.teacher))
    with SecondDevice():
        found, there = taught()
    assert found == loss
    for here, away in zip(scored, there, strict=True):
        torch.testing.assert_close(away, here, rtol=1e-6, atol=1e-6)  # its sums are of other operators


@pytest.mark.slow
def test_the_loss_across_tokenizers_is_the_same(data, models, tmp_path):  # noqa: F811
    settings = config(data, tmp_path / "out", **models, **BOTH)
    task = load_task(data)
    loaded = load_training_data(settings, task)
    examples = training_examples(settings, loaded, task.train, tmp_path)
    trainer = make_trainer(settings, loaded, examples, tmp_path / "out", [], ("chrf",))
    loss = trainer.compute_loss(loaded.student, trainer.collator(examples[:3]), num_items_in_batch=10)
    trainer.teacher = moved(copy.deepcopy(trainer.teacher))
    with SecondDevice():
        found = trainer.compute_loss(loaded.student, trainer.collator(examples[:3]), num_items_in_batch=10)
    assert found.item() == loss.item()


def test_what_a_teacher_is_rounded_to_names_its_outputs(data, folders, tmp_path):
    told = [config(data, tmp_path, teacher=folders[1], teacher_quantization=kind) for kind in (None, "int8", "int4")]
    assert len({*map(teacher_digest, told)}) == 3


def test_several_processes_have_their_teachers_beside_them(data, folders, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(WheelsError, match="teacher_device 'cpu' is for one process, and each of several"):
        run(config(data, tmp_path / "out", teacher=folders[1], objective="kl", teacher_device="cpu"))
