"""The trainers: one loss whatever the accumulation, on-policy batches, padded vocabularies, causal prompts."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import Seq2SeqTrainingArguments

from tests.marks import slow
from wheels.distillation.collate import Collator, Example, count_targets
from wheels.distillation.generation import write
from wheels.distillation.losses import IGNORED, distillation_loss, forward_kl
from wheels.distillation.trainer import CausalKDTrainer, KDTrainer, Objective, cut
from wheels.models.build import ModelSize, build_model
from wheels.models.pair import Pair

# Sums over other paddings, in float32.
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def examples(pair: Pair, task, count: int = 12) -> list[Example]:
    sources = pair.encode([row.source for row in task.train[:count]])
    targets = pair.encode_targets([row.target for row in task.train[:count]])
    return [{"source": source, "target": target} for source, target in zip(sources, targets, strict=True)]


def collator(pair: Pair) -> Collator:
    return Collator(pair.is_seq2seq, pair.pad_id, pair.start_ids)


def make(pair: Pair, rows: list[Example], folder: Path, objective: Objective, value=None, cache=None, **options):
    arguments = {
        "per_device_train_batch_size": 8, "max_steps": 1, "learning_rate": 0.0, "logging_steps": 1, "use_cpu": True,
        "max_grad_norm": 0.0, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
        "remove_unused_columns": False,
    } | options  # fmt: skip
    kind = KDTrainer if pair.is_seq2seq else CausalKDTrainer
    return kind(
        pair.student,
        Seq2SeqTrainingArguments(output_dir=str(folder), **arguments),
        teacher=None if objective.name == "ce" or cache else pair.teacher,
        objective=objective,
        collator=collator(pair),
        train_examples=rows,
        value=value,
        cache=cache,
    )


def loss_and_gradient(pair: Pair, rows: list[Example], folder: Path, objective: Objective, **options):
    """The logged loss of one optimizer step, and the student's gradient in it."""
    pair = Pair(copy.deepcopy(pair.student), pair.teacher, pair.tokenizer, pair.prompt)
    trainer = make(pair, rows, folder, objective, **options)
    found: dict[str, torch.Tensor] = {}
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *_: found.update({name: p.grad.clone() for name, p in pair.student.named_parameters()})
    )
    trainer.train()
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), found


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["backward", *slow("forward")])
def test_out_of_memory_a_batch_is_halved_and_said_once(t5, task, tmp_path, monkeypatch, caplog, inner):
    """With the gradients of the whole step, those of the batches before it among them."""
    rows, objective = examples(t5, task, 8), Objective("kl", w=0.5)
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    for model in (t5.student, t5.teacher):
        model.config.dropout_rate = 0.0
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    whole, whole_gradient = loss_and_gradient(t5, rows, tmp_path, objective, **options)
    sizes = []

    def full(self, model, inputs, *more, **others):
        sizes.append(len(inputs["labels"]))
        if len(sizes) > 1 and sizes[-1] > 1:
            weight = next(model.parameters())
            if inner == "backward":
                weight.grad = torch.ones_like(weight)  # as of a pass that failed in its midst
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return once(self, model, inputs, *more, **others)

    once = KDTrainer.compute_loss
    monkeypatch.setattr(KDTrainer, "compute_loss", full)
    halved, gradient = loss_and_gradient(t5, rows, tmp_path, objective, **options)
    assert sizes == [4, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert caplog.text.count("a pass trains on at most 2 rows") == caplog.text.count("at most 1 rows") == 1
    assert halved == pytest.approx(whole, rel=1e-5)
    for name, expected in whole_gradient.items():
        torch.testing.assert_close(gradient[name], expected, **CLOSE)


def test_a_batch_is_cut_by_rows_and_by_targets():
    labels = torch.tensor([[1, 2, IGNORED], [3, IGNORED, IGNORED], [4, 5, 6]])
    batch = {"labels": labels, "token_weights": torch.arange(6.0), "on_policy": torch.tensor(True)}
    first, second = cut(batch, 2)
    assert first["labels"].tolist() == labels[:2].tolist() and second["labels"].tolist() == labels[2:].tolist()
    assert first["token_weights"].tolist() == [0, 1, 2] and second["token_weights"].tolist() == [3, 4, 5]
    assert second["on_policy"] and cut(batch, 3) == [batch]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize("name", ["ce", "kl", "jsd"])
def test_accumulation_changes_neither_loss_nor_gradient(request, task, tmp_path, family, name):
    """Rows of unequal length, so an average of averages would differ."""
    pair = request.getfixturevalue(family)
    rows = examples(pair, task, 8)
    assert len({len(row["target"]) for row in rows}) > 1
    objective = Objective(name, temperature=2.0, w=0.5)
    whole, whole_gradient = loss_and_gradient(pair, rows, tmp_path, objective)
    cut, cut_gradient = loss_and_gradient(
        pair, rows, tmp_path, objective, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    assert cut == pytest.approx(whole, rel=1e-5)
    assert whole_gradient.keys() == cut_gradient.keys()
    for parameter, gradient in whole_gradient.items():
        torch.testing.assert_close(cut_gradient[parameter], gradient, **CLOSE)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_loss_is_the_average_over_target_tokens(request, task, tmp_path, family):
    """Row by row without padding, against the model's own cross-entropy."""
    pair = request.getfixturevalue(family)
    rows = examples(pair, task, 8)
    total = 0.0
    for row in rows:
        ids = row["source"] if pair.is_seq2seq else row["source"] + row["target"]
        labels = row["target"] if pair.is_seq2seq else [IGNORED] * len(row["source"]) + row["target"]
        with torch.no_grad():
            total += pair.student(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() * len(row["target"])
    loss, _ = loss_and_gradient(pair, rows, tmp_path, Objective("ce"))
    assert loss == pytest.approx(total / sum(len(row["target"]) for row in rows), rel=1e-5)


def test_divergence_uses_the_common_range(t5, task, tmp_path):
    wide = build_model(ModelSize(16, 2, 2, 32), vocab_size=t5.vocab_size + 20, seed=9)
    pair = Pair.of(t5.student, wide, t5.tokenizer)
    rows = examples(pair, task, 4)
    loss, _ = loss_and_gradient(pair, rows, tmp_path, Objective("kl", vocab_size=pair.vocab_size))
    batch = collator(pair)(rows)
    labels = batch.pop("labels")
    with torch.no_grad():
        q, p = pair.student(**batch).logits, pair.teacher(**batch).logits[..., : pair.vocab_size]
        expected = forward_kl(q[labels != IGNORED], p[labels != IGNORED]).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_teacher_gets_no_gradient_and_stays_in_eval_mode(t5, task, tmp_path):
    before = copy.deepcopy(t5.teacher.state_dict())
    trainer = make(t5, examples(t5, task), tmp_path, Objective("kl"), learning_rate=0.1, max_steps=2)
    trainer.train()
    assert not t5.teacher.training
    assert all(torch.equal(value, before[name]) for name, value in t5.teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in t5.teacher.parameters())


def seen_labels(
    pair: Pair, task, folder: Path, lmbda: float, steps: int, count: int = 4, **options
) -> list[list[list[int]]]:
    """The targets of each batch that reached the loss."""
    trainer = make(
        pair,
        examples(pair, task, count),
        folder,
        Objective("kl", lmbda=lmbda, max_new_tokens=6),
        max_steps=steps,
        **options,
    )
    seen: list[list[list[int]]] = []
    compute = trainer.compute_loss

    def spy(model, inputs, **kwargs):
        seen.append([[token for token in row if token != IGNORED] for row in inputs["labels"].tolist()])
        assert kwargs["num_items_in_batch"] == sum(len(row) for row in seen[-1])
        return compute(model, inputs, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_on_policy_targets_are_the_students_samples(request, task, tmp_path, family):
    pair = request.getfixturevalue(family)
    references = [row["target"] for row in examples(pair, task, 4)]
    off = seen_labels(pair, task, tmp_path, 0.0, 3)
    assert all(sorted(batch) == sorted(references) for batch in off)
    on = seen_labels(pair, task, tmp_path, 1.0, 3)
    assert not any(row in references for batch in on for row in batch)
    assert all(len(row) <= 6 and (row[-1] == 1 or len(row) == 6) for batch in on for row in batch)
    one_row = seen_labels(pair, task, tmp_path, 1.0, 2, count=1)
    assert one_row[0] != one_row[1], "each step draws anew"
    assert seen_labels(pair, task, tmp_path, 1.0, 3) == on, "one seed, one output"
    assert seen_labels(pair, task, tmp_path, 1.0, 3, seed=5) != on


def test_samples_follow_the_student_not_the_teacher(t5, task, tmp_path):
    """A student that is sure of every token samples its own greedy output."""
    t5.student.get_input_embeddings().weight.data *= 100.0
    rows = [row["source"] for row in examples(t5, task, 4)]
    options = {"pad_id": 0, "eos_ids": (1,), "max_new_tokens": 6}
    greedy, teachers = write(t5.student, rows, **options), write(t5.teacher, rows, **options)
    on = seen_labels(t5, task, tmp_path, 1.0, 1)
    assert sorted(on[0]) == sorted(greedy) != sorted(teachers)


@pytest.mark.slow
def test_lmbda_is_the_share_of_batches(t5, task, tmp_path):
    references = [row["target"] for row in examples(t5, task, 4)]
    batches = seen_labels(t5, task, tmp_path, 0.3, 60)
    share = sum(batch[0] not in references for batch in batches) / len(batches)
    assert 0.12 < share < 0.48, share  # three standard deviations of Bernoulli(0.3) over 60 batches


def test_on_policy_batches_have_no_cross_entropy(t5, task, tmp_path):
    """With w = 0 a reference batch has no divergence; a sampled one has nothing else."""
    trainer = make(t5, examples(t5, task, 4), tmp_path, Objective("kl", w=0.0, lmbda=1.0, max_new_tokens=4))
    batch = collator(t5)(examples(t5, task, 4))
    sampled = trainer._maybe_on_policy(batch, 0)
    inputs = {name: value for name, value in sampled.items() if name not in ("labels", "on_policy")}
    labels = sampled["labels"]
    with torch.no_grad():
        mask = labels != IGNORED
        q, p = t5.student(**inputs).logits[mask], t5.teacher(**inputs).logits[mask]
        loss = trainer.compute_loss(t5.student, sampled, num_items_in_batch=count_targets([sampled]))
        torch.testing.assert_close(loss, distillation_loss(q, p, labels[mask], w=1.0), **CLOSE)
        reference = trainer.compute_loss(t5.student, batch, num_items_in_batch=count_targets([batch]))
    assert reference > 4.0, "log 300 is 5.7: cross-entropy"
