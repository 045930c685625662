"""The student's loss: its value and gradient, what it is at g = 0 and g = 1, and that a student learns by it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.agents.seed_runs import seed_run
from tests.decoding.tiny import make_pair
from tests.envs.tiny import LIMIT, ROWS
from tests.marks import slow, spread
from wheels.agents.rl import student
from wheels.agents.rl.student import (
    Teaching,
    Visit,
    mean_divergence,
    take_turn,
    teach,
    visit,
    visits_loss,
    weighted_divergence,
)
from wheels.decoding.methods.method import student_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.step import Step
from wheels.decoding.streaming import decode
from wheels.distillation.collate import Collator, target_states
from wheels.distillation.losses import distillation_loss
from wheels.distillation.teacher_cache import distribution_of
from wheels.distillation.topk_losses import TopKDistribution
from wheels.envs.settings import Start
from wheels.envs.vector import DeferralVectorEnv
from wheels.models.pair import Pair

NEVER, ALWAYS = -1e4, 1e4
"""Logits of gates that write, and that call, with probability 1."""
ALL = 10_000
"""More tokens than any vocabulary here has."""


def soft_pair(family: str = "t5") -> Pair:
    """A pair whose scores are close together: sure ones are hardly moved by a divergence of bounded gradient."""
    pair = make_pair(family)
    for model in (pair.student, pair.teacher):
        model.get_output_embeddings().weight.data *= 0.1
    return pair


def undecided(step: Step, price_B: torch.Tensor) -> torch.Tensor:
    return step.log_q_BV.max(-1).values.float() - price_B


def visits_of(pair: Pair, kept: int = ALL, price: float = 0.0) -> list[Visit]:
    env = DeferralVectorEnv(4, pair, ROWS, max_new_tokens=LIMIT)
    return visit(pair, env, [Start(index, index, 0.5, price) for index in range(len(ROWS))], undecided, kept)


def gated(visits: list[Visit], logit: float) -> list[Visit]:
    return [replace(each, logit_T=torch.full_like(each.logit_T, logit)) for each in visits]


def test_the_loss_of_two_states_by_hand() -> None:
    """q = (1/2, 1/2) in both; p = (3/4, 1/4) and (1, 0): KL is log 2 - H(p)."""
    p_NV = torch.tensor([[0.75, 0.25], [1.0, 0.0]], dtype=torch.float64)
    g_N = torch.tensor([0.2, 0.7], dtype=torch.float64)
    teacher = TopKDistribution(None, p_NV.log())
    lost, weight = weighted_divergence(torch.zeros(2, 2, dtype=torch.float64), teacher, g_N.logit(), "kl")
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(lost) == pytest.approx(0.8 * (math.log(2) - entropy) + 0.3 * math.log(2))
    assert float(weight) == pytest.approx(1.1)


def test_t5s_queries_learn_at_their_own_rate() -> None:
    """Adam's first step is as long as the learning rate, whatever the gradient."""
    pair = soft_pair()
    before = {name: weight.detach().clone() for name, weight in pair.student.named_parameters()}
    teach(pair, gated(visits_of(pair), NEVER), Teaching(epochs=1, batch=ALL, learning_rate=1e-2))
    moved = {
        name: float((weight.detach() - before[name]).abs().max()) for name, weight in pair.student.named_parameters()
    }
    queries = {name for name in moved if name.endswith(".q.weight")}
    fast = max(step for name, step in moved.items() if name not in queries)
    assert max(moved[name] for name in queries) == pytest.approx(fast * pair.student.config.d_kv**-0.5, rel=0.01)


@pytest.mark.parametrize("objective", ["kl", "rkl", "jsd"])
def test_its_gradient_is_that_of_finite_differences(objective: str) -> None:
    draws = torch.Generator().manual_seed(0)
    logits_NV, teacher_NV = torch.randn(2, 3, 5, dtype=torch.float64, generator=draws)
    z_N, teacher = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64), TopKDistribution(None, teacher_NV)

    def loss(own_NV: torch.Tensor) -> torch.Tensor:
        lost, weight = weighted_divergence(own_NV, teacher, z_N, objective)
        return lost / weight

    assert torch.autograd.gradcheck(loss, logits_NV.requires_grad_(True))


def test_a_state_that_is_always_called_in_teaches_nothing() -> None:
    draws = torch.Generator().manual_seed(0)
    logits_NV, teacher_NV = torch.randn(2, 3, 5, generator=draws)
    logits_NV.requires_grad_(True)
    lost, _ = weighted_divergence(logits_NV, TopKDistribution(None, teacher_NV), torch.tensor([0.0, ALWAYS, 0.0]), "kl")
    lost.backward()
    assert logits_NV.grad is not None
    assert logits_NV.grad[1].eq(0).all()
    assert logits_NV.grad[[0, 2]].ne(0).all()


@pytest.mark.parametrize(("family", "objective"), spread(["t5", "llama"], ["kl", "rkl", "jsd"]))
def test_without_calls_it_is_plain_distillation_on_the_same_texts(family: str, objective: str) -> None:
    """That of `wheels pretrain`, from its own batches and the teacher's own logits."""
    pair = soft_pair(family)
    visits = visits_of(pair)
    lost, weight = visits_loss(pair, gated(visits, NEVER), objective)
    batch = Collator.of(pair)([{"source": each.source, "target": each.text} for each in visits])
    labels_BT = batch.pop("labels")
    logits = []
    for model in (pair.student, pair.teacher):
        with torch.no_grad():
            chosen, targets = target_states(labels_BT, is_seq2seq=pair.is_seq2seq)
            logits.append(model(**batch).logits[chosen][:, : pair.vocab_size])
    plain = distillation_loss(logits[0], logits[1], targets, objective=objective)
    assert weight.item() == len(logits[0]) == sum(len(each.text) for each in visits)
    # The teacher's log-probabilities are kept in half precision.
    assert (lost / weight).item() == pytest.approx(plain.item(), rel=2e-3)
    first = [replace(each, logit_T=torch.arange(len(each.text)) * 1e4 + NEVER / 2) for each in visits]
    some, shares = visits_loss(pair, first, objective)
    assert shares.item() == len(visits), "the first states alone are the student's"
    place_N = torch.cat([torch.arange(len(each.text)) for each in visits])
    begun = distillation_loss(
        *(logits_NV[place_N == 0] for logits_NV in logits), place_N[place_N == 0], objective=objective
    )
    assert (some / shares).item() == pytest.approx(begun.item(), rel=2e-3)
    assert (some / shares).item() != pytest.approx(plain.item(), rel=2e-3)


def test_what_the_gate_says_in_each_state_goes_with_the_text() -> None:
    pair = soft_pair()
    visits = visits_of(pair, price=0.3)
    assert len({len(each.text) for each in visits}) > 1
    for each in visits:
        inputs = {"input_ids": torch.tensor([each.source]), "decoder_input_ids": torch.tensor([[0, *each.text[:-1]]])}
        with torch.no_grad():
            log_q_TV, log_p_TV = (
                functional.log_softmax(model(**inputs).logits[0], dim=-1) for model in (pair.student, pair.teacher)
            )
        assert torch.allclose(each.logit_T, log_q_TV.max(-1).values.float() - 0.3, atol=1e-4)
        assert torch.allclose(each.teacher["relative"].softmax(-1).float(), log_p_TV.exp().float(), atol=2e-3)


def test_what_is_kept_of_the_teacher_are_its_likeliest_tokens_and_the_mass_of_the_rest() -> None:
    pair = soft_pair()
    for few, whole in zip(visits_of(pair, 3), visits_of(pair), strict=True):
        p_TV = whole.teacher["relative"].float().softmax(-1)
        best_T3 = p_TV.topk(3, dim=-1).values
        kept_T4 = distribution_of(few.teacher, 1.0, 0).outcomes_NJ.softmax(-1)
        torch.testing.assert_close(kept_T4, torch.cat([best_T3, 1 - best_T3.sum(-1, True)], -1), atol=2e-3, rtol=0)


def test_a_mean_divergence_is_over_all_states_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = soft_pair()
    visits = visits_of(pair)
    with torch.no_grad():
        lost, weight = visits_loss(pair, visits, "kl")
    assert weight > 2 and weight.item() != pytest.approx(sum(len(each.text) for each in visits))
    for batch in (2, 4, 100):
        monkeypatch.setattr(student, "BATCH", batch)
        assert mean_divergence(pair, visits, "kl") == pytest.approx(float(lost / weight), rel=1e-5)
    assert mean_divergence(pair, gated(visits, ALWAYS), "kl") == 0.0


@pytest.mark.slow
def test_a_turn_teaches_all_that_was_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine texts in ten; a run that goes on reads the student that there was."""
    pair, taught = soft_pair(), []
    env = DeferralVectorEnv(4, pair, ROWS, max_new_tokens=LIMIT)
    starts = [Start(index % len(ROWS), index, 0.5, 0.0) for index in range(21)]
    run = replace(seed_run(pair, ROWS, tmp_path, student_epochs=1), turn=2)

    def teach(pair: Pair, visits: list[Visit], settings: Teaching, progress: Any) -> None:
        taught.append([each.text for each in visits])
        assert settings.seed == run.draws(0)
        pair.student.get_output_embeddings().weight.data.mul_(0.5)

    monkeypatch.setattr(student, "teach", teach)
    monkeypatch.setattr(student, "CHUNK", 8)
    before = {name: value.clone() for name, value in pair.student.state_dict().items()}
    written = [each.text for each in visit(pair, env, starts, undecided, 32)]
    take_turn(run, env, starts, undecided)
    assert taught == [[text for place, text in enumerate(written) if place not in (9, 19)]]
    (line,) = [json.loads(line) for line in run.metrics.path.read_text().splitlines()]
    assert (line["turn"], line["teacher_tokens"]) == (2, sum(map(len, written)))
    after = {name: value.clone() for name, value in pair.student.state_dict().items()}
    assert not all(value.equal(before[name]) for name, value in after.items())
    pair.student.load_state_dict(before)
    take_turn(run, env, starts, undecided)
    assert len(taught) == 1
    assert all(value.equal(after[name]) for name, value in pair.student.state_dict().items())


def test_few_kept_tokens_bound_the_divergence_from_below() -> None:
    pair = soft_pair()
    few, whole = (mean_divergence(pair, visits_of(pair, kept), "kl") for kept in (2, ALL))
    assert 0 < few < whole


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["kl", *slow("rkl", "jsd")])
def test_a_student_learns_where_it_writes(objective: str) -> None:
    pair = soft_pair("llama")
    visits = visits_of(pair)
    settings = Teaching(epochs=30, batch=2, learning_rate=1e-2, objective=objective)
    before, teacher = mean_divergence(pair, visits, objective), [*map(torch.clone, pair.teacher.parameters())]
    teach(pair, gated(visits, ALWAYS), settings)
    assert mean_divergence(pair, visits, objective) == before, "nothing, where it never writes"
    teach(pair, visits, settings)
    assert mean_divergence(pair, visits, objective) < 0.5 * before
    assert all(map(torch.equal, teacher, pair.teacher.parameters()))
    assert not pair.student.training and all(weight.grad is None for weight in pair.student.parameters())


@pytest.mark.slow
def test_an_environment_and_an_engine_see_the_taught_student() -> None:
    """Both keep copies of a model's weights (the fast path) and must make new ones."""
    double = soft_pair()
    pair = Pair.of(double.student.float(), double.teacher.float(), double.tokenizer)  # float32 has a fast path
    env = DeferralVectorEnv(4, pair, ROWS, max_new_tokens=LIMIT)
    starts = [Start(index, index, 0.0, 1e6) for index in range(len(ROWS))]

    def both() -> list[list[list[int]]]:
        sources, params = [row.source for row in ROWS], DecodeParams(max_new_tokens=LIMIT)
        engine = [list(trace.token_ids) for trace in decode(pair, sources, student_only(), params)]
        return [[each.text for each in visit(pair, env, starts, undecided, ALL)], engine]

    before = both()
    teach(pair, gated(visits_of(pair), NEVER), Teaching(epochs=30, batch=2, learning_rate=1e-2))
    after = both()
    assert before[0] == before[1] != after[0] == after[1]
