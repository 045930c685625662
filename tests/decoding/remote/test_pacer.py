"""Dollars over the texts of a run: all of them are spent, none too many, and early texts get no more than late ones."""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.decoding.tiny import write
from tests.envs.tiny import SOURCES
from wheels.decoding.methods.method import deferral, teacher_only
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.ledger import Ledger, OverLimit
from wheels.decoding.remote.pacer import DollarPacer
from wheels.decoding.remote.prices import PICO, Prices
from wheels.decoding.sequences import Sequence
from wheels.endpoints.usage import Usage
from wheels.errors import WheelsError

pytestmark = pytest.mark.slow

LONG = {"max_new_tokens": 12}
PRICES = Prices(prompt=0.4, completion=1.6, cached=0.1)
RANDOM = RULES["random"]


@dataclass(frozen=True)
class State:
    """One state, as far as it is looked at."""

    position_B: torch.Tensor = field(default_factory=lambda: torch.zeros(1))
    budget_B: torch.Tensor = field(default_factory=lambda: torch.ones(1))


def run(
    dollars: float,
    *,
    texts: int = 200,
    flight: int = 1,
    span: int = 1,
    drift: float = 0.0,
    wrong: float = 1.0,
    group: int = 1,
) -> Any:
    """Write texts of random lengths with scores of `random() ** wrong`, which rise by `drift` over the run.

    So many calls are answered together, as long as texts are left that go on and there is no hurry.
    """
    draw, score = random.Random(0), [0.0]
    rule = Rule("dice", lambda step: torch.tensor(score), levels=((0.0, 1.0), (1.0, 0.0)))
    ledger = Ledger(PRICES, dollars)
    sequences = [Sequence(index, [0] * draw.randint(8, 30), 40) for index in range(texts)]
    lengths = [max(4, round(len(each.source) * draw.uniform(0.6, 1.2))) for each in sequences]
    pacer = DollarPacer(rule, SimpleNamespace(span=SimpleNamespace(most=span, chosen=False), ledger=ledger), sequences)
    spent, waiting, rest = [0] * texts, list[Sequence](), list(sequences)
    active = [rest.pop(0) for _ in range(flight)]
    while active:
        text = draw.choice(active) if flight > 1 else active[0]
        alone = len(waiting) < min(group, len(active)) and not pacer.hurries
        if text in waiting and (alone or draw.random() < 0.5):
            continue
        if text in waiting:
            waiting.remove(text)
            read = len(text.source) + len(text.tokens)
            most = max(1, int(min(span, ledger.fits(read, 1))))
            new = min(most, lengths[text.index] - len(text.tokens))
            try:
                request = ledger.reserve(read, most)
            except OverLimit:
                new, usage = 1, Usage()
            else:
                usage = Usage(1, read, read // 16 * 16 if text.teacher_passes else 0, new)
                ledger.settle(request, usage)
            text.teacher_passes += 1
            spent[text.index] += ledger.pico(usage)
            text.usage += usage
            text.tokens += [0] * new
            pacer.recount([text])
        else:
            score[0] = draw.random() ** wrong + drift * text.index / texts
            if pacer.decide(State(), [text]).item():
                waiting.append(text)
                continue
            text.tokens.append(0)
        if len(text.tokens) >= lengths[text.index]:
            pacer.leave(text)
            active.remove(text)
            active += [rest.pop(0)] if rest else []
    assert pacer.left == 0 and not pacer.asked and not pacer.waiting
    return ledger, spent


ALL, DEAREST = 0.0275, 66 * 0.4e-6 + 1.6e-6
"""Dollars of a call for every token of these texts, about; and of one token in the dearest place."""


@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"flight": 16},
        {"flight": 64},
        {"span": 4},
        {"wrong": 3.0},
        {"wrong": 0.3, "flight": 8},
        {"drift": 0.5},
    ],
)
def test_the_ceiling_is_reached_and_not_passed(share, settings):
    ledger, spent = run(share * ALL, **settings)
    assert ledger.spent <= ledger.budget
    assert ledger.spent >= min(0.995 * ledger.budget, ledger.budget - DEAREST * PICO), "another call does not fit"
    quarters = [sum(spent[first : first + 50]) / ledger.spent for first in range(0, 200, 50)]
    assert max(quarters) < 0.35 and min(quarters) > 0.17, "spread over the texts"


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_calls_that_wait_for_each_other_leave_no_money_at_the_end(share):
    ledger, _ = run(share * ALL, span=8, flight=16, group=16)
    assert 0.995 * ledger.budget <= ledger.spent <= ledger.budget


def test_a_head_is_told_the_use_that_the_money_pays_for():
    told = []
    rule = Rule(
        "told", lambda step: told.append(float(step.budget_B)) or torch.zeros(1), levels=((0.0, 1.0), (1.0, 0.0))
    )
    ledger = Ledger(Prices(1.0, 1.0), 5 * 11e-6)
    texts = [Sequence(index, [0] * 10, 20) for index in range(10)]
    pacer = DollarPacer(rule, SimpleNamespace(span=SimpleNamespace(most=1, chosen=False), ledger=ledger), texts)
    pacer.decide(State(), texts[:1])
    assert told == pytest.approx([5 / (10 * 10 - 5)]), "five calls for ten texts, but for half a text"


def test_money_for_every_call_is_not_spent_at_any_price():
    ledger, _ = run(10 * ALL, flight=4)
    everything, _ = run(0.99 * ALL * 10**6, flight=4)
    assert ledger.spent == everything.spent < 1.2 * ALL * PICO


@pytest.mark.parametrize("batch_size", [1, 4])
def test_texts_of_a_pair(server, far, batch_size):
    free = far(server, prices=PRICES)
    write(free, SOURCES * 6, teacher_only(), budget=1.0, batch_size=1, **LONG)
    budget = 0.4 * free.remote.ledger.spent / PICO
    found = []
    for _ in range(2):
        there = far(server, prices=PRICES, budget_dollars=budget)
        found.append(write(there, SOURCES * 6, RANDOM, mode="dollars", batch_size=batch_size, **LONG))
        ledger = there.remote.ledger
        assert ledger.budget - PRICES.pico(Usage(1, 24, 0, 1)) < ledger.spent <= ledger.budget
        assert sum(trace.degraded for trace in found[0]) < batch_size, "of the last calls some do not fit"
    assert [trace.authors for trace in found[0]] == [trace.authors for trace in found[1]]
    halves = [sum(trace.bill.dollars for trace in part) for part in (found[0][:18], found[0][18:])]
    assert halves[0] == pytest.approx(halves[1], rel=0.5)
    assert found[0][0].mode == "dollars" and found[0][0].budget is None


def test_writing_on_changes_no_text(server, far):
    settings: dict[str, Any] = {"prices": PRICES, "budget_dollars": 4e-4}
    texts = [
        write(far(server, write_on=write_on, **settings), SOURCES * 4, RANDOM, mode="dollars", batch_size=1, **LONG)
        for write_on in (True, False)
    ]
    assert [trace.token_ids for trace in texts[0]] == [trace.token_ids for trace in texts[1]]
    assert [trace.authors for trace in texts[0]] == [trace.authors for trace in texts[1]]


def test_what_dollars_cannot_be_spread_over_is_refused(pair, server, far):
    for there in (pair, far(server), far(server, prices=PRICES)):
        with pytest.raises(WheelsError, match="budget_mode dollars spreads the budget_dollars of a remote teacher"):
            write(there, SOURCES, RANDOM, mode="dollars", **LONG)
    with pytest.raises(WheelsError, match="leave teacher_budget"):
        deferral(RANDOM, 0.2, "dollars")
    with pytest.raises(WheelsError, match="rule 'every-k' has no threshold that budget_mode dollars could move"):
        deferral(RULES["every-k"], None, "dollars")
    with pytest.raises(WheelsError, match="rule 'maxprob' does not say which thresholds give which use"):
        deferral(RULES["maxprob"], None, "dollars")
