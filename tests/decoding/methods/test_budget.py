"""Strict budgets: never exceeded, at any prefix of any sequence."""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decoding.tiny import make_pair, write
from tests.envs.tiny import SOURCES
from wheels.decoding import engine
from wheels.decoding.methods import budget
from wheels.decoding.methods.budget import permitted, strict_allowance
from wheels.decoding.step import Step
from wheels.decoding.trace import TEACHER
from wheels.errors import WheelsError
from wheels.models.pair import Pair

ROUNDING = 1e-6
"""In tokens: the float product of a budget and a length may miss the true one by less, and texts are short."""

shares = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1 / 3, 1.0]))


def exceeds(calls: list[bool], share: float, burst: int) -> bool:
    """Tell whether some prefix holds more of the teacher's tokens than the budget lets it."""
    return any(sum(calls[:end]) > share * end + burst + ROUNDING for end in range(1, len(calls) + 1))


@pytest.mark.parametrize(
    ("share", "tokens", "burst", "allowed"),
    [
        (0.0, 100, 0, 0),
        (0.2, 4, 0, 0),
        (0.2, 5, 0, 1),
        (0.2, 5, 3, 4),
        (0.1, 30, 0, 3),  # 0.1 * 30 is 3.0000000000000004 or 2.9999999999999996, by the order of operations
        (0.7, 10, 0, 7),
        (0.29, 100, 0, 29),  # 0.29 * 100 = 28.999999999999996
        (1.0, 17, 0, 17),
        (1.0, 0, 0, 0),
    ],
)
def test_the_allowance_by_hand(share, tokens, burst, allowed):
    assert int(strict_allowance(share, torch.tensor(tokens), burst)) == allowed


def test_what_is_permitted_by_hand():
    budget_B = torch.tensor([0.0, 0.5, 0.5, 0.5, 1.0], dtype=torch.float64)
    position_B, calls_B = torch.tensor([9, 0, 1, 3, 4]), torch.tensor([0, 0, 0, 2, 4])
    assert permitted("strict", budget_B, position_B, calls_B).tolist() == [False, False, True, False, True]
    assert permitted("strict", budget_B, position_B, calls_B, burst=1).tolist() == [False, True, True, True, True]
    for mode in ("average", "online"):
        assert permitted(mode, budget_B, position_B, calls_B).tolist() == [False, True, True, True, True]


def test_an_unknown_mode_is_refused():
    with pytest.raises(
        WheelsError, match="budget_mode must be one of average, online, strict, got 'averag'; did you mean"
    ):
        permitted("averag", torch.ones(1), torch.zeros(1), torch.zeros(1))


def written(wishes: list[bool], share: float, burst: int) -> list[bool]:
    """Return which of the calls that a rule wishes for are permitted, token by token."""
    calls: list[bool] = []
    for wish in wishes:
        state = torch.tensor([share], dtype=torch.float64), torch.tensor([len(calls)]), torch.tensor([sum(calls)])
        calls.append(wish and bool(permitted("strict", *state, burst)))
    return calls


@settings(max_examples=50)
@given(wishes=st.lists(st.booleans(), min_size=1, max_size=40), share=shares, burst=st.integers(0, 3))
def test_what_is_permitted_never_exceeds_the_budget_at_any_prefix(wishes, share, burst):
    assert not exceeds(written(wishes, share, burst), share, burst)


@given(share=shares, length=st.integers(1, 40))
def test_a_rule_that_always_calls_uses_all_that_is_allowed(share, length):
    assert sum(written([True] * length, share, 0)) == int(strict_allowance(share, torch.tensor(length)))


@cache
def pair() -> Pair:
    made = make_pair("t5")
    for model in (made.student, made.teacher):
        model.generation_config.eos_token_id = 9  # some texts end, and most go on
    return made


@dataclass(frozen=True)
class Drawn:
    """A rule for tests that calls by lot, at a rate of each row's own."""

    rates: tuple[float, ...]
    name: str = "drawn"
    needs_teacher: bool = False

    def __call__(self, step: Step) -> torch.Tensor:
        """Whatever the rows that are left, a rate for each."""
        return step.noise_B < torch.tensor(self.rates)[: len(step.noise_B)]


def overspent(budgets: list[float], rule: Drawn, burst: int, seed: int) -> bool:
    """Decode in strict mode and tell whether any prefix of any output exceeds its budget."""
    sources = SOURCES[: len(budgets)]
    traces = write(
        pair(), sources, rule, budget=budgets, mode="strict", burst=burst, max_new_tokens=12, seed=seed, batch_size=3
    )
    return any(
        exceeds([author == TEACHER for author in trace.authors], share, burst)
        for trace, share in zip(traces, budgets, strict=True)
    )


@pytest.mark.slow
@settings(max_examples=25)
@given(
    budgets=st.lists(shares, min_size=1, max_size=5),
    rates=st.tuples(*[st.sampled_from([0.3, 0.8, 1.0])] * 3),
    burst=st.integers(0, 2),
    seed=st.integers(0, 5),
)
def test_the_engine_never_exceeds_a_strict_budget_at_any_prefix(budgets, rates, burst, seed):
    assert not overspent(budgets, Drawn(rates), burst, seed)


def test_an_allowance_that_rounds_up_would_be_seen(monkeypatch):
    """The negative control of the property."""
    ceiling = lambda share, tokens, extra=0: torch.ceil(share * tokens.double()).long() + extra  # noqa: E731
    monkeypatch.setattr(budget, "strict_allowance", ceiling)
    assert exceeds(written([True] * 9, 0.3, 0), 0.3, 0)
    assert overspent([0.3, 0.5], Drawn((1.0, 1.0, 1.0)), 0, 0)


def test_an_engine_that_forgets_what_was_spent_would_be_seen(monkeypatch):
    def forgetful(mode, budget_B, position_B, calls_B, burst=0):
        return permitted(mode, budget_B, position_B, calls_B.clamp(max=1), burst)

    monkeypatch.setattr(engine, "permitted", forgetful)
    assert overspent([0.3, 0.5], Drawn((1.0, 1.0, 1.0)), 0, 0)
