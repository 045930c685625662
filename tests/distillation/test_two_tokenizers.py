"""`wheels pretrain` with a teacher of another tokenizer: its distributions where spellings meet, and its texts."""

from __future__ import annotations

import math

import pytest
import torch

from tests.distillation.test_pretrain import config, weights
from wheels.data.tasks import load_task
from wheels.distillation.alignment import shared_divergence
from wheels.distillation.run import make_trainer, run
from wheels.distillation.training_data import load_training_data, shared_with, training_examples
from wheels.errors import WheelsError

BOTH = {"objective": "kl", "w": 0.5, "max_steps": 2, "eval_limit": 0}


@pytest.fixture
def models(data, tmp_path) -> dict[str, str]:
    """Two folders, each with a tokenizer of its own."""
    made = {"student": {"vocab_size": 272}, "teacher": {"vocab_size": 300, "width": 24}}
    return {
        role: str(run(config(data, tmp_path / role, max_steps=1, eval_limit=0, **settings)))
        for role, settings in made.items()
    }


@pytest.mark.slow
def test_the_loss_is_the_divergence_where_spellings_meet_and_cross_entropy(data, models, tmp_path):
    settings = config(data, tmp_path / "out", **models, **BOTH)
    task = load_task(data)
    loaded = load_training_data(settings, task)
    examples = training_examples(settings, loaded, task.train, tmp_path)
    trainer = make_trainer(settings, loaded, examples, tmp_path / "out", [], ("chrf",))
    rows, shared = examples[:3], shared_with(loaded, examples[0])
    items = sum(len(row["target"]) for row in rows)
    found = trainer.compute_loss(loaded.student, trainer.collator(rows), num_items_in_batch=items)
    whole, met = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logits = [
                model(
                    input_ids=torch.tensor([each["source"]]),
                    decoder_input_ids=torch.tensor([[0, *each["target"][:-1]]]),
                ).logits[0]
                for model, each in ((loaded.student, row), (loaded.teacher, row["teacher"]))
            ]
            places = torch.tensor(row["places"])
            parts = (each[place] for each, place in zip(logits, places.T, strict=True))
            whole += 0.5 * float(shared_divergence("kl", *parts, shared).sum())
            whole -= 0.5 * float(logits[0].log_softmax(-1)[range(len(row["target"])), row["target"]].sum())
            met += len(places)
    assert found.item() == pytest.approx(whole / items, rel=1e-5)
    assert len(rows) * 3 < met < items, "at both ends and between, and not everywhere"


@pytest.mark.slow
def test_a_teacher_of_another_kind_teaches_too(data, models, tmp_path, caplog):
    teacher = str(run(config(data, tmp_path / "causal", family="llama", vocab_size=280, max_steps=1, eval_limit=0)))
    before = weights(tmp_path / "student")
    folder = run(config(data, tmp_path / "out", student=models["student"], teacher=teacher, **BOTH))
    after = weights(folder)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(math.isfinite(float(value.sum())) for value in after.values())
    assert (
        "have different tokenizers" in caplog.text and "are compared where their spellings of a target" in caplog.text
    )
    assert "tokens are the teacher's too" in caplog.text


@pytest.mark.slow
def test_a_teachers_texts_are_spelled_in_the_students_tokens(data, models, tmp_path, monkeypatch):
    settings = config(data, tmp_path / "out", **models, objective="seqkd", max_steps=1)
    task = load_task(data, limit=8)
    loaded = load_training_data(settings, task)
    texts = [row.target for row in task.train]

    def written(pair, sources, *more, **settings):
        assert pair is loaded.other and sources == pair.encode([row.source for row in task.train])
        outputs = pair.encode_targets(texts)
        return [outputs[0][:-1], *outputs[1:]]

    monkeypatch.setattr("wheels.distillation.training_data.teacher_outputs", written)
    found = [example["target"] for example in training_examples(settings, loaded, task.train, tmp_path)]
    whole = loaded.pair.encode_targets(texts)
    assert found == [whole[0][:-1], *whole[1:]], "the first has no end"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w": 1.0}, "at w 1 nothing teaches the tokens that the teacher lacks: give --w below 1"),
        ({"objective": "pcl"}, "objective 'pcl' needs one: use kl, rkl, jsd or seqkd"),
        ({"lmbda": 0.5}, "lmbda 0.5 needs one: leave it out"),
        ({"cached_logits": 8}, "cached_logits 8 needs one: leave it out"),
        ({"trainer": "trl"}, "trainer trl needs one: leave it out"),
    ],
)
def test_what_needs_one_tokenizer_is_refused(data, models, tmp_path, options, message):
    with pytest.raises(WheelsError, match=f"have different tokenizers.*; {message}"):
        run(config(data, tmp_path / "out", **models, **(BOTH | options)))
