"""Distillation by path consistency: values by hand, zero at q = p, the fixed point, and wrong variants that miss it."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from safetensors.torch import load_file

from tests.distillation.test_trainer import CLOSE, collator, examples, make
from wheels.distillation.losses import IGNORED
from wheels.distillation.path_loss import (
    VALUE,
    PathSettings,
    PathValue,
    attach_value,
    detach_value,
    distribution_terms,
    path_losses,
    set_value_rate,
    student_path_loss,
)
from wheels.distillation.trainer import Objective
from wheels.models.pair import Pair

LEARNED = 1e-3  # nats of KL(q || p) over whole texts; the table of a tiny student gets there in a second
SEEN = 0.02  # nats; what a right value may be off at most, and a wrong variant must be


# --- by hand ----------------------------------------------------------------------------------------------------------

LOG_P = torch.tensor([[-1.0, -50.0, -1.0], [-2.0, -2.0, 0.0]])
LOG_Q = torch.tensor([[-2.0, -1.0, -3.0], [-1.0, -1.0, 0.0]])
VALUE_T = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 7.0]])
TARGET = torch.tensor([[9.0, 3.0, 5.0], [9.0, 6.0, 7.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_losses_by_hand():
    """u = 1, -19 (floored), 2 and -1, -1; the second text was cut, so its path ends at V' = 6 before its last token."""
    losses = path_losses(LOG_P, LOG_Q, VALUE_T, TARGET, MASK, torch.tensor([True, False]))
    single = [[-1 + 1 + 3, -2 - 19 + 5, -4 + 2], [-3 - 1 + 6, 0, 0]]
    suffix = [[-1 + 1 - 19 + 2, -2 - 19 + 2, -4 + 2], [-3 - 1 + 6, 0, 0]]
    expected = (torch.tensor(single).square() + torch.tensor(suffix).square()) / 4
    torch.testing.assert_close(losses, expected.float())
    ended = path_losses(LOG_P, LOG_Q, VALUE_T, TARGET, MASK, torch.tensor([True, True]))
    assert ended[1].tolist() == [(4.0 + 25.0) / 4, (36.0 + 36.0) / 4, 0.0]
    clipped = path_losses(LOG_P, LOG_Q, VALUE_T, TARGET, MASK, torch.tensor([True, True]), clip=1.0)
    assert clipped[1].tolist() == [(1.5 + 4.5) / 2, (5.5 + 5.5) / 2, 0.0]
    divided = path_losses(LOG_P, LOG_Q, VALUE_T, TARGET, MASK, torch.tensor([True, True]), by_length=True)
    assert divided[1].tolist() == [(4.0 + 25.0 / 4) / 4, (36.0 + 36.0) / 4, 0.0]
    with pytest.raises(ValueError, match=r"value_t must have the shape of log_p_BT, \(2, 3\), got \(2, 2\)"):
        path_losses(LOG_P, LOG_Q, VALUE_T[:, :2], TARGET, MASK, torch.tensor([True, True]))


# --- the fixed point, over every text of a tiny language --------------------------------------------------------------

LONGEST, TOKENS = 3, 3  # token 0 ends a text; one of LONGEST tokens ends by itself
STATES = [state for n in range(LONGEST) for state in itertools.product((1, 2), repeat=n)]
TEXTS = [(*state, 0) for state in STATES] + [(*state, v) for state in STATES if len(state) == 2 for v in (1, 2)]
STATE_PT = torch.tensor([[STATES.index(y[:t]) if t < len(y) else 0 for t in range(LONGEST)] for y in TEXTS])
TOKEN_PT = torch.tensor([[*y, 0, 0][:LONGEST] for y in TEXTS])
MASK_PT = torch.tensor([[t < len(y) for t in range(LONGEST)] for y in TEXTS])


def log_laws(logits_SV: torch.Tensor) -> torch.Tensor:
    """The log-probability of each token of each text, [P, T], 0 at padding."""
    log_SV = torch.log_softmax(logits_SV, -1).expand(len(STATES), TOKENS)
    return torch.where(MASK_PT, log_SV[STATE_PT, TOKEN_PT], 0.0)


def divergence(logits_SV: torch.Tensor, teacher_SV: torch.Tensor) -> torch.Tensor:
    log_q_P, log_p_P = log_laws(logits_SV).sum(1), log_laws(teacher_SV).sum(1)
    return (log_q_P.exp() * (log_q_P - log_p_P)).sum()


def teacher_table() -> torch.Tensor:
    return torch.randn(len(STATES), TOKENS, generator=torch.Generator().manual_seed(3)) * 2.0


def learn(teacher_SV, law: str, *, shared: bool = False, steps: int = 1000, sign: float = 1.0, leak: bool = False):
    """The logits that path consistency finds; `sign` and `leak` (gradient into the next value) make it wrong.

    `law`: texts are `sampled` from the student, drawn `evenly` (off-policy), or all `weighed` by the student's law.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(1 if shared else len(STATES), TOKENS, requires_grad=True)
    value_S = torch.zeros(len(STATES), requires_grad=True)
    optimizer = torch.optim.Adam([logits, value_S], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    log_p_PT = log_laws(teacher_SV)
    for _ in range(steps):
        log_q_PT = log_laws(logits)
        law_P = log_q_PT.detach().sum(1).exp()
        assert law_P.sum().item() == pytest.approx(1.0, abs=1e-4)
        weight_P = law_P if law == "weighed" else torch.ones_like(law_P)
        if law != "weighed":
            drawn = torch.multinomial(law_P if law == "sampled" else weight_P, 16, True, generator=generator)
            weight_P = torch.bincount(drawn, minlength=len(TEXTS)).float()
        value_PT = value_S[STATE_PT]
        target_PT = value_PT if leak else value_PT.detach()
        losses_PT = path_losses(log_p_PT, sign * log_q_PT, value_PT, target_PT, MASK_PT, torch.ones(len(TEXTS)).bool())
        loss = (weight_P[:, None] * losses_PT).sum() / (weight_P[:, None] * MASK_PT).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return logits.detach(), value_S.detach()


@pytest.mark.slow
@pytest.mark.parametrize("law", ["sampled", "evenly"])
def test_converges_to_the_teacher_on_and_off_policy(law):
    teacher = teacher_table()
    logits, value_S = learn(teacher, law)
    assert divergence(torch.zeros(len(STATES), TOKENS), teacher) > 0.5, "there was something to learn"
    assert divergence(logits, teacher) < LEARNED
    assert value_S.abs().max() < 0.05, "V* = 0"


def realised(logits_SV: torch.Tensor, teacher_SV: torch.Tensor) -> torch.Tensor:
    """What the student will really lose from each state on, [S]: minus the divergence that is to come."""
    log_q_SV, log_p_SV = (table.log_softmax(-1).expand(len(STATES), TOKENS) for table in (logits_SV, teacher_SV))
    value = {}
    for state in reversed(STATES):
        s, after = STATES.index(state), [0.0, *(value.get((*state, v), 0.0) for v in (1, 2))]
        value[state] = sum(log_q_SV[s, v].exp() * (log_p_SV[s, v] - log_q_SV[s, v] + after[v]) for v in range(TOKENS))
    return torch.stack([value[state] for state in STATES])


def best_shared(teacher: torch.Tensor) -> float:
    """The least KL(q || p) of a student with one law for all states."""
    logits = torch.zeros(1, TOKENS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        divergence(logits, teacher).backward()
        optimizer.step()
    return divergence(logits.detach(), teacher).item()


@pytest.mark.slow
def test_a_student_that_cannot_follow_ends_at_the_least_divergence():
    """On-policy the fixed point is that of KL(q || p), and V is what the student will lose: no variant but this."""
    teacher = teacher_table()
    best = best_shared(teacher)
    logits, value_S = learn(teacher, "weighed", shared=True)
    assert best > 0.3, "one law is not enough"
    assert divergence(logits, teacher) < best + LEARNED
    assert realised(logits, teacher)[0].item() == pytest.approx(-divergence(logits, teacher).item(), abs=1e-5)
    torch.testing.assert_close(value_S, realised(logits, teacher), rtol=0.0, atol=SEEN / 2)


@pytest.mark.slow
def test_a_wrong_sign_moves_the_student():
    teacher = teacher_table()
    logits, _ = learn(teacher, "weighed", shared=True, sign=-1.0)
    assert divergence(logits, teacher) > best_shared(teacher) + SEEN


@pytest.mark.slow
def test_a_next_value_with_gradient_moves_the_values():
    teacher = teacher_table()
    logits, value_S = learn(teacher, "weighed", shared=True, leak=True)
    assert (value_S - realised(logits, teacher)).abs().max() > 10 * SEEN
    assert divergence(logits, teacher) > best_shared(teacher) + 1e-4, "and the student by a little"


# --- over a law -------------------------------------------------------------------------------------------------------


def test_law_terms_by_hand():
    """p = (1/4, 3/4, e^-40) and q = (1/2, 1/4, 1/4): squared log-ratios, the last floored at -20."""
    p, q = torch.tensor([[0.25, 0.75, 1e-18]]).log(), torch.tensor([[0.5, 0.25, 0.25]]).log()
    squares = [math.log(2) ** 2, math.log(3) ** 2, (20 - math.log(4)) ** 2]
    student, kl = distribution_terms(q + 5.0, p - 2.0, "student")
    both, same = distribution_terms(q, p, "both")
    assert student.item() == pytest.approx(sum(m * x for m, x in zip((0.5, 0.25, 0.25), squares, strict=True)) / 2)
    assert both.item() == pytest.approx(sum(m * x for m, x in zip((0.375, 0.5, 0.125), squares, strict=True)) / 2)
    assert kl.item() == same.item() == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(3) + 5 - 0.25 * math.log(4))


def law_gradient(logits_SV, teacher_SV, value_S, law: str, gamma: float) -> torch.Tensor:
    """The mean gradient over all texts of the student's own law; `value_S` is what the form `written` is told."""
    logits_SV = logits_SV.clone().requires_grad_(True)
    log_q_PT, log_p_PT, value_PT = log_laws(logits_SV), log_laws(teacher_SV), value_S[STATE_PT]
    law_P, divergence_PT, terms_PT = log_q_PT.detach().sum(1).exp(), None, 0.0
    if law != "written":
        terms_S, divergence_S = distribution_terms(logits_SV, teacher_SV, law)
        terms_PT = torch.where(MASK_PT, terms_S[STATE_PT], 0.0)
        divergence_PT = torch.where(MASK_PT, divergence_S[STATE_PT], 0.0)
        value_PT = value_PT + divergence_PT
    losses_PT = path_losses(
        log_p_PT, log_q_PT, value_PT, value_PT, MASK_PT, torch.ones(len(TEXTS)).bool(),
        divergence_BT=divergence_PT, gamma=gamma,
    )  # fmt: skip
    (law_P[:, None] * (losses_PT + terms_PT)).sum().backward()
    return logits_SV.grad


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_over_the_students_law_the_mean_gradient_is_that_of_the_written_token(gamma):
    generator = torch.Generator().manual_seed(5)
    logits, value = torch.randn(len(STATES), TOKENS, generator=generator), torch.randn(len(STATES), generator=generator)
    written, over_law, both = (
        law_gradient(logits, teacher_table(), value, law, gamma) for law in ("written", "student", "both")
    )
    torch.testing.assert_close(over_law, written, rtol=1e-4, atol=1e-5)
    assert (both - written).abs().max() > SEEN


def test_without_a_horizon_nothing_is_left_but_the_divergence_of_each_state(t5, task, tmp_path):
    """gamma = 0: the gradient is that of GKD's reverse divergence, and the value has nothing to say."""
    settings = PathSettings(distribution="student", gamma=0.0)
    batch = dict(collator(t5)(examples(t5, task, 4)))
    gradients = []
    for objective in (Objective("pcl", vocab_size=t5.vocab_size, paths=settings), Objective("rkl")):
        value = attach_value(t5.student, settings, seed=0) if objective.name == "pcl" else None
        t5.student.zero_grad()
        trainer = make(t5, examples(t5, task, 4), tmp_path / objective.name, objective, value=value)
        trainer.compute_loss(t5.student, dict(batch), num_items_in_batch=10).backward()
        detach_value(t5.student)
        gradients.append({name: p.grad.clone() for name, p in t5.student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert max(g.abs().max() for g in gradients[1].values()) > 0.01
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], **CLOSE)


@pytest.mark.slow
def test_a_weak_student_without_a_discount_ends_too_soon():
    """One law for all states: the least undiscounted divergence ends texts sooner than that of each state does."""
    teacher = teacher_table()
    teacher[:, 0] -= 2.0
    ends = {}
    for gamma in (0.0, 1.0):
        logits = torch.zeros(1, TOKENS)
        for _ in range(400):
            table = logits.expand(len(STATES), TOKENS)
            value_S = realised(table, teacher)
            gradient = law_gradient(table, teacher, value_S, "student", gamma).sum(0, keepdim=True)
            logits = logits - 0.2 * gradient
        ends[gamma] = logits.softmax(-1)[0, 0].item()
    assert ends[1.0] > 1.2 * ends[0.0], ends


# --- models -----------------------------------------------------------------------------------------------------------


def path_trainer(pair: Pair, task, folder, *, lmbda: float = 0.0, settings: PathSettings | None = None, **options):
    settings = settings or PathSettings()
    value = attach_value(pair.student, settings, seed=0)
    objective = Objective("pcl", lmbda=lmbda, max_new_tokens=6, vocab_size=pair.vocab_size, paths=settings)
    return make(pair, examples(pair, task, 4), folder, objective, value=value, **options), value


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_student_that_is_the_teacher_has_no_loss_and_no_gradient(request, task, tmp_path, family):
    pair = request.getfixturevalue(family)
    pair = Pair(copy.deepcopy(pair.teacher), pair.teacher, pair.tokenizer, pair.prompt)
    trainer, value = path_trainer(pair, task, tmp_path)
    batch = collator(pair)(examples(pair, task, 4))
    loss = trainer.compute_loss(pair.student, dict(batch), num_items_in_batch=10)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or p.grad.abs().max() == 0.0 for p in pair.student.parameters())
    with torch.no_grad():
        value.present[-1].bias.fill_(0.5)
    loss = trainer.compute_loss(pair.student, dict(batch), num_items_in_batch=10)
    loss.backward()
    assert loss.item() > 0.1
    assert max(p.grad.abs().max() for p in pair.student.parameters() if p.grad is not None) > 0.01


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_fitting_the_value_does_not_move_the_student(kind):
    """No gradient of V reaches the hidden states that it is read from; the value's own weights get theirs."""
    value = PathValue(8, PathSettings())
    for parameter in value.parameters():
        torch.nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(1))
    hidden_BTD = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2)).to(kind).requires_grad_(True)
    present, average = value(hidden_BTD)
    assert present.dtype == average.dtype == torch.float32
    # As in a student's loss, in which the hidden states stand beside the value that is read from them.
    (present.square().sum() + average.sum() + 0.0 * hidden_BTD.sum()).backward()
    assert hidden_BTD.grad.abs().max() == 0.0
    assert all(parameter.grad.abs().max() > 0.0 for parameter in value.present.parameters())
    assert all(parameter.grad is None for parameter in value.average.parameters())


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_padding_and_prompts_change_nothing(request, task, tmp_path, family):
    """A batch has the sum of its rows; a row is what its own tokens, its hidden states and its logits say."""
    pair = request.getfixturevalue(family)
    trainer, value = path_trainer(pair, task, tmp_path)
    for parameter in value.parameters():
        torch.nn.init.normal_(parameter.data, std=0.3, generator=torch.Generator().manual_seed(1))
    rows = examples(pair, task, 4)
    assert len({len(row["target"]) for row in rows}) > 1
    pair.student.eval()
    with torch.no_grad():
        whole = trainer.compute_loss(pair.student, dict(collator(pair)(rows)), num_items_in_batch=1)
        alone = sum(trainer.compute_loss(pair.student, dict(collator(pair)([r])), num_items_in_batch=1) for r in rows)
        torch.testing.assert_close(whole, alone, **CLOSE)
        row, one = rows[0], collator(pair)(rows[:1])
        reads = {name: tensor for name, tensor in one.items() if name != "labels"}
        out = pair.student(**reads, output_hidden_states=True)
        hidden = (out.decoder_hidden_states if pair.is_seq2seq else out.hidden_states)[-1][0]
        first = 0 if pair.is_seq2seq else len(row["source"]) - 1
        steps = slice(first, first + len(row["target"]))
        q = out.logits[0, steps].log_softmax(-1)
        p = pair.teacher(**reads).logits[0, steps].log_softmax(-1)
        u = torch.stack([p[t, y] - q[t, y] for t, y in enumerate(row["target"])])
        v, after = value.present(hidden[steps])[:, 0], [*value.average(hidden[steps])[1:, 0], torch.tensor(0.0)]
        single = [(-v[t] + u[t] + after[t]) ** 2 / 2 for t in range(len(u))]
        suffix = [(-v[t] + u[t:].sum()) ** 2 / 2 for t in range(len(u))]
        own = trainer.compute_loss(pair.student, dict(one), num_items_in_batch=1)
        torch.testing.assert_close(own, (sum(single) + sum(suffix)) / 2, **CLOSE)


def test_a_sample_without_an_end_is_cut_short():
    logits, labels = torch.zeros(3, 4), torch.tensor([[2, 3, 2]])
    value = torch.tensor([[1.0, 2.0, 3.0]])
    options = {"eos_ids": (1,), "settings": PathSettings()}
    cut = student_path_loss(logits, logits, labels, value, value, **options)
    assert cut.item() == pytest.approx((1 + 4 + 1 + 1) / 4), "single: 1, 1; suffix, to V = 3: 2, 1"
    whole = student_path_loss(logits, logits, torch.tensor([[2, 3, 1]]), value, value, **options)
    assert whole.item() == pytest.approx((1 + 1 + 9 + 1 + 4 + 9) / 4)
    prompt = torch.tensor([[IGNORED, 2, 1]])
    assert student_path_loss(logits[:2], logits[:2], prompt, value, value, **options).item() == pytest.approx(
        (1 + 9 + 4 + 9) / 4
    )


def test_the_average_follows_the_value_step_by_step(t5, task, tmp_path):
    settings = PathSettings(value_tau=0.25, value_rate=3.0)
    trainer, value = path_trainer(
        t5, task, tmp_path, settings=settings, learning_rate=0.01, lr_scheduler_type="constant"
    )
    trainer.train()
    present, average = value.present[-1].bias, value.average[-1].bias
    assert present.abs().item() > 0.0
    torch.testing.assert_close(average, 0.25 * present)
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates[-1] == pytest.approx(0.03)
    assert rates[0] == pytest.approx(0.01)
    sizes = [sum(p.numel() for p in group["params"]) for group in trainer.optimizer.param_groups]
    assert sizes[-1] == sum(p.numel() for p in value.present.parameters())


def test_without_a_rate_the_value_stays_zero(t5, task, tmp_path):
    trainer, value = path_trainer(t5, task, tmp_path, settings=PathSettings(value_rate=0.0), learning_rate=0.01)
    assert not any(p.requires_grad for p in value.parameters())
    before = copy.deepcopy(t5.student.state_dict())
    trainer.train()
    assert not any(p.any() for name, p in value.named_parameters() if name.startswith(("present.2", "average.2")))
    moved = [name for name, tensor in t5.student.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved and not any(VALUE in name for name in moved)


def test_a_value_has_its_own_seed_and_leaves_the_student_plain(t5):
    names = set(t5.student.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    value = attach_value(t5.student, PathSettings(), seed=1)
    assert torch.equal(torch.rand(3), expected), "the run's own random numbers are as without it"
    assert not torch.equal(value.present[0].weight, PathValue(16, PathSettings(), seed=2).present[0].weight)
    assert set(t5.student.state_dict()) > names
    detach_value(t5.student)
    detach_value(t5.student)
    assert set(t5.student.state_dict()) == names


def test_samples_begin_after_the_warm_up(t5, task, tmp_path):
    seen: list[bool] = []
    settings = PathSettings(warm_up=0.5)
    trainer, _ = path_trainer(t5, task, tmp_path, lmbda=1.0, settings=settings, max_steps=4)
    compute = trainer.compute_loss
    trainer.compute_loss = lambda m, x, **k: (seen.append("on_policy" in x), compute(m, x, **k))[1]
    trainer.train()
    assert seen == [False, False, True, True]


def test_the_value_is_in_the_checkpoint_and_not_in_the_optimizers_first_group(t5, task, tmp_path):
    trainer, value = path_trainer(t5, task, tmp_path, save_strategy="steps", save_steps=1, learning_rate=0.01)
    trainer.train()
    held = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert torch.equal(held[f"{VALUE}.present.2.bias"], value.present[-1].bias)
    assert torch.equal(held[f"{VALUE}.average.2.bias"], value.average[-1].bias)
    plain = torch.optim.SGD([torch.zeros(2, requires_grad=True), *value.present.parameters()], lr=0.1)
    set_value_rate(plain, value)
    assert [len(group["params"]) for group in plain.param_groups] == [1, 4]
