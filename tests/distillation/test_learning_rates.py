"""T5's queries learn as those of an attention that is scaled."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from tests.distillation.test_trainer import examples, make
from wheels.distillation.learning_rates import set_query_rate
from wheels.distillation.trainer import Objective
from wheels.models.pair import Pair

SETTINGS = {"max_steps": 3, "learning_rate": 2e-3, "lr_scheduler_type": "cosine", "adam_epsilon": 1e-20}


def queries(model) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in model.named_modules() if name.endswith(".q")}


def test_the_weights_are_those_of_training_with_a_scale_and_larger_queries(t5, task, tmp_path):
    """W, and sqrt(d) W with a scale 1 / sqrt(d), are one model; they stay one at our rate for W and the common one."""
    ours, rows = Pair(copy.deepcopy(t5.student), t5.teacher, t5.tokenizer), examples(t5, task, 24)
    theirs = Pair(copy.deepcopy(t5.student), t5.teacher, t5.tokenizer)
    root = math.sqrt(ours.student.config.d_kv)
    for query in queries(theirs.student).values():
        query.weight.data *= root
        query.register_forward_hook(lambda _module, _given, out: out / root)
    make(ours, rows, tmp_path / "a", Objective(), **SETTINGS).train()
    trainer = make(theirs, rows, tmp_path / "b", Objective(), **SETTINGS)
    trainer.optimizer = torch.optim.AdamW(theirs.student.parameters(), lr=2e-3, eps=1e-20, weight_decay=0.0)
    trainer.train()
    begun, found = queries(t5.student), queries(theirs.student)
    for name, query in queries(ours.student).items():
        torch.testing.assert_close(query.weight * root, found[name].weight, rtol=1e-3, atol=1e-4)
        moved = (query.weight - begun[name].weight).abs().max()
        assert 1e-4 < moved < 3.01 * 2e-3 / root, name


def test_every_weight_is_in_one_group_and_follows_the_schedule(t5, task, tmp_path):
    trainer = make(t5, examples(t5, task), tmp_path, Objective(), learning_rate=2e-3)
    optimizer = trainer.create_optimizer()
    names = {id(weight): name for name, weight in t5.student.named_parameters()}
    groups = [{names[id(weight)] for weight in group["params"]} for group in optimizer.param_groups]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(names)
    for group, members in zip(optimizer.param_groups, groups, strict=True):
        apart = {name.endswith(".q.weight") for name in members}
        assert len(apart) <= 1
        slow = apart == {True}
        assert group["lr"] == pytest.approx(2e-3 * (t5.student.config.d_kv**-0.5 if slow else 1.0))
    trainer.create_scheduler(10, optimizer)
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    assert min(rates) < max(rates) == 2e-3


@pytest.mark.parametrize("optim", ["adafactor", "sgd"])
def test_optimizers_of_another_kind_keep_one_rate(t5, task, tmp_path, optim):
    trainer = make(t5, examples(t5, task), tmp_path, Objective(), learning_rate=2e-3, optim=optim)
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {2e-3}


def test_a_family_with_a_scale_keeps_one_rate(llama):
    optimizer = torch.optim.AdamW(llama.student.parameters(), lr=2e-3)
    set_query_rate(optimizer, llama.student)
    assert len(optimizer.param_groups) == 1
