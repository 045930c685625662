"""What passes cost: groups and overheads by hand from made-up seconds, and measurements that are made once."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from tests.decoding.tiny import FAMILIES, make_pair, write
from wheels.decoding import engine
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models import costs as module
from wheels.decoding.models.costs import GAP, Costs, costs_of, measure
from wheels.decoding.models.forward_batches import OVERHEAD


def test_a_group_is_the_fewest_rows_that_cost_no_more_each():
    teacher = {(1, GAP): 1.0, (2, GAP): 1.1, (4, GAP): 1.2, (8, GAP): 2.3, (8, 1): 0.1}
    costs = Costs({}, teacher)  # a row costs 1, 0.55, 0.3, 0.2875
    assert costs.group(8) == 4, "within five percent of the best"
    assert costs.group(2) == 2 and costs.group(1) == 1, "larger passes than are allowed do not count"
    assert Costs({}, {(1, GAP): 1.0, (8, GAP): 8.0}).group(8) == 1, "nothing is won by waiting"
    assert Costs({}, {(1, GAP): 1.0, (8, GAP): 1.0}).group(8) == 8
    assert Costs({}, {}).group(8) == 8, "nothing is known: full passes"


def test_an_overhead_is_where_the_line_meets_no_tokens():
    assert Costs({}, {(1, 1): 11.0, (1, 5): 15.0, (8, 5): 50.0}).overhead() == 10, "ten seconds, one a token"
    assert Costs({}, {(2, 5): 20.0, (8, 5): 50.0}).overhead() == 10, "whatever the tokens of the smaller pass"
    assert Costs({}, {(1, 1): 1.0, (8, 5): 40.0}).overhead() == 1, "at least one token"
    assert Costs({}, {(1, 1): 1.0, (8, 5): 1.0}).overhead() == OVERHEAD, "no slope can be seen"
    assert Costs({}, {(1, 1): 1.0}).overhead() == OVERHEAD
    assert Costs({}, {(1, 1): 1.0, (8, 5): 1.0 + 1e-9}).overhead() == 4096, "and no more than a long prompt"


def test_the_costs_of_drafts_are_those_of_one_row():
    student, teacher = Costs({1: 0.5, 8: 9.0}, {(1, 1): 1.0, (1, 5): 3.0, (8, 5): 99.0}).draft_costs(3)
    assert (student, teacher) == (0.5, (1.0, 1.5, 2.0, 2.5))


def test_a_teacher_is_measured_once_for_a_batch_size(monkeypatch):
    asked = []
    monkeypatch.setattr(
        module, "measure", lambda pair, size: asked.append(size) or Costs(dict.fromkeys([1, size], 1.0))
    )
    pair, other = make_pair("t5"), make_pair("t5")
    first = costs_of(pair, 8)
    assert costs_of(pair, 8) is first and asked == [8]
    assert costs_of(other, 8) is not first and asked == [8, 8]
    costs_of(pair, 32)
    assert costs_of(pair, 8) is first and asked == [8, 8, 32], "another batch size has other costs"
    rounded = replace(pair, teacher_weights="int8")
    assert costs_of(rounded, 8) is not first and asked == [8, 8, 32, 8], "and so have other weights"
    assert costs_of(pair, 8) is first and costs_of(rounded, 8) is costs_of(replace(rounded), 8)


def test_an_engine_measures_a_pair_where_its_rows_wait(monkeypatch):
    monkeypatch.setattr(engine, "costs_of", costs_of)  # which all other tests are spared
    asked, measured = [], module.measure
    monkeypatch.setattr(module, "measure", lambda *given: asked.append(given) or measured(*given))
    pair, rule = make_pair("t5"), RULES["random"].at(0.5)
    for batch_size in (2, 2, 8):
        write(pair, ["a b", "c", "d e f", "g"], rule, max_new_tokens=3, batch_size=batch_size)
    assert asked == [(pair, 2)], "once, and not where all rows are written at once"


def test_passes_are_timed_with_the_pairs_weights(monkeypatch):
    seen = set()

    def best(pair, model, rows, context, width, weights):
        seen.add((model is pair.student, weights))
        return 1.0

    monkeypatch.setattr(module, "_best", best)
    measure(replace(make_pair("t5"), student_weights="bfloat16", teacher_weights="int8"), 2)
    assert seen == {(True, ("torch", "bfloat16")), (False, ("torch", "int8"))}


def test_a_teacher_that_is_gone_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "measure", lambda pair, size: Costs({size: 1.0}))
    monkeypatch.setattr(module, "_measured", weakref.WeakKeyDictionary())
    pair = make_pair("llama")
    costs_of(pair, 4)
    assert len(module._measured) == 1
    del pair
    gc.collect()
    assert len(module._measured) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_both_models_are_timed(family):
    costs = measure(make_pair(family), 4)
    assert list(costs.student)[:2] == [1, 4] and set(costs.student) <= {1, 2, 4}
    assert set(costs.teacher) == {(1, 1), *((rows, GAP) for rows in costs.student)}
    assert all(0 < seconds < 5 for seconds in (*costs.student.values(), *costs.teacher.values()))
    assert costs.group(4) in costs.student and 1 <= costs.overhead() <= 4096


def test_slow_models_are_timed_at_the_ends_alone(monkeypatch):
    monkeypatch.setattr(module, "_best", lambda pair, model, rows, context, width, weights: float(rows))
    monkeypatch.setattr(module, "SECONDS", -1.0)
    assert list(measure(make_pair("t5"), 16).student) == [1, 16]
    monkeypatch.setattr(module, "SECONDS", 60.0)
    assert list(measure(make_pair("t5"), 12).student) == [1, 12, 6, 3]


def test_a_measurement_leaves_the_random_state_and_the_models_alone():
    pair = make_pair("bart")
    before = [parameter.clone() for parameter in pair.teacher.parameters()]
    state = torch.get_rng_state()
    measure(pair, 2)
    assert torch.get_rng_state().equal(state) and not pair.teacher.training
    assert all(old.equal(new) for old, new in zip(before, pair.teacher.parameters(), strict=True))
