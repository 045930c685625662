"""Prices: the controller by hand, and the linear programme of a small constrained process as the judge."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from tests.agents.rl.text_process import Prefix, Solution, TextProcess, every_path, random_process, solve
from tests.marks import slow
from wheels.agents.rl.lagrangian import (
    Gains,
    PIDState,
    PriceTable,
    non_increasing,
    pid_start,
    pid_update,
)
from wheels.errors import WheelsError

# --- the controller ---------------------------------------------------------------------------------------------------


def run(gains: Gains, uses: list[float], budget: float = 0.2, start: float = 0.0) -> list[PIDState]:
    states, state = [], pid_start(start)
    for use in uses:
        state = pid_update(state, use, budget, gains)
        states.append(state)
    return states


@pytest.mark.parametrize(
    ("gains", "uses", "prices"),
    [
        # I = .5 * (.3 + .1 - .2): 0.15, 0.20, 0.10
        (Gains(0.5, 0, 0), [0.5, 0.3, 0.0], [0.15, 0.2, 0.1]),
        # P = .5 P + .5 delta: .15, .125, -.0375 times 2; no I
        (Gains(0, 2, 0, smoothing=0.5), [0.5, 0.3, 0.0], [0.3, 0.25, 0.0]),
        # ema(use) = .4, .6, .3, .65: rises by 0 (first), .2, 0 (fall), .35, times 3
        (Gains(0, 0, 3, use_smoothing=0.5), [0.4, 0.8, 0.0, 1.0], [0.0, 0.6, 0.0, 1.05]),
        # the same against two updates ago: .6 - .4 (the oldest), 0, .65 - .6
        (Gains(0, 0, 3, use_smoothing=0.5, delay=2), [0.4, 0.8, 0.0, 1.0], [0.0, 0.6, 0.0, 0.15]),
        # all three: I = .3, .25, .3; P = .15, .05, .05; D = 0, 0 (a fall), .1
        (Gains(1, 2, 3, smoothing=0.5, use_smoothing=0.0), [0.5, 0.15, 0.25], [0.6, 0.35, 0.7]),
        # held at 0, then at price_max
        (Gains(1, 0, 0), [0.0, 0.0, 0.3], [0.0, 0.0, 0.1]),
        (Gains(1, 0, 0, price_max=0.5), [0.9, 0.9, 0.1], [0.5, 0.5, 0.4]),
        (Gains(), [], []),
    ],
)
def test_pid_by_hand(gains: Gains, uses: list[float], prices: list[float]) -> None:
    assert [state.price for state in run(gains, uses)] == pytest.approx(prices)


def test_the_integral_does_not_wind_up_at_an_unreachable_budget() -> None:
    """A thousand updates over budget at the greatest price, then under it: the price falls at the first of them."""
    states = run(Gains(0.5, 0, 0, price_max=2.0), [1.0] * 1000 + [0.0])
    assert states[-2].price == 2.0 and states[-1].price == pytest.approx(1.9)


def test_a_state_that_starts_at_a_price_stays_there_on_budget() -> None:
    assert [state.price for state in run(Gains(), [0.2] * 5, start=1.3)] == pytest.approx([1.3] * 5)


@pytest.mark.parametrize("use", [-0.1, math.nan, math.inf])
def test_pid_refuses_what_is_no_measurement(use: float) -> None:
    with pytest.raises(ValueError, match=r"use must be a measured share >= 0, got (-0\.1|nan|inf)"):
        pid_update(PIDState(), use, 0.2, Gains())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("integral", -1.0, "integral gain must be a number >= 0, got -1.0"),
        ("derivative", math.nan, "derivative gain must be a number >= 0, got nan"),
        ("smoothing", 1.0, r"smoothing must be in \[0, 1\), got 1.0"),
        ("delay", 0, "delay must be at least 1 update, got 0"),
        ("price_max", 0.0, "price_max must be a number above 0, got 0.0"),
        ("price_max", math.inf, "price_max must be a number above 0, got inf"),
    ],
)
def test_gains_are_checked(field: str, value: float, message: str) -> None:
    with pytest.raises(WheelsError, match=message):
        Gains(**{field: value})


# --- the grid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([], None, []),
        ([1.0], None, [1.0]),
        ([3.0, 2.0, 1.0], None, [3.0, 2.0, 1.0]),
        ([1.0, 2.0, 3.0], None, [2.0, 2.0, 2.0]),
        ([3.0, 1.0, 2.0], None, [3.0, 1.5, 1.5]),
        ([3.0, 1.0, 2.0], [1, 3, 1], [3.0, 1.25, 1.25]),
        ([1.0, 1.0, 4.0], None, [2.0, 2.0, 2.0]),
    ],
)
def test_non_increasing_by_hand(values: list[float], weights: list[float] | None, expected: list[float]) -> None:
    assert non_increasing(values, weights) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 5)), min_size=1, max_size=8))
def test_non_increasing_is_the_nearest_such_sequence(pairs: list[tuple[float, float]]) -> None:
    values, weights = (np.array(column) for column in zip(*pairs, strict=True))
    found = np.array(non_increasing(values.tolist(), weights.tolist()))
    assert (np.diff(found) <= 1e-12).all()
    # at the nearest point of a convex cone the residual is orthogonal to it and has no positive part along its edges
    residual = weights * (values - found)
    assert abs(residual @ found) < 1e-8
    assert (np.cumsum(residual) < 1e-8).all() and abs(residual.sum()) < 1e-8
    assert non_increasing(found.tolist(), weights.tolist()) == pytest.approx(found.tolist())


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0]])
def test_non_increasing_refuses_weights_that_do_not_weigh(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="one positive number for each of 2 values"):
        non_increasing([1.0, 2.0], weights)


def test_prices_between_and_beyond_the_grid() -> None:
    table = PriceTable([0.1, 0.2, 0.4], prices=[3.0, 2.0, 1.0])
    budget = torch.tensor([[0.0, 0.1, 0.15], [0.2, 0.3, 1.0]])
    torch.testing.assert_close(table.prices_at(budget), torch.tensor([[3.0, 3.0, 2.5], [2.0, 1.5, 1.0]]))
    assert table.price(0.3) == pytest.approx(1.5)
    assert table.prices_at(torch.zeros(0)).shape == (0,)
    assert PriceTable([0.2], prices=[2.0]).prices_at(torch.tensor([0.0, 0.2, 1.0])).tolist() == [2.0] * 3


def test_the_greatest_price_is_a_price() -> None:
    """Where calls gain more than that a bisection ends there."""
    assert PriceTable([0.1, 0.2], Gains(price_max=5.0), prices=[5.0, 0.0]).prices == (5.0, 0.0)
    with pytest.raises(WheelsError, match=r"a price in \[0, 5\] for each of its 2 budgets, got \[5.1, 0.0\]"):
        PriceTable([0.1, 0.2], Gains(price_max=5.0), prices=[5.1, 0.0])


def test_an_update_moves_what_was_measured_and_keeps_the_order() -> None:
    table = PriceTable([0.1, 0.2, 0.4], Gains(1, 0, 0), prices=[2.0, 1.9, 1.0])
    table.update({0.1: 0.1, 0.2: 0.5})
    assert table.prices == pytest.approx((2.1, 2.1, 1.0))  # 2.0 and 1.9 + 0.3, pooled
    table.update({0.2: 0.2, 0.1: 0.1, 0.4: 0.4})
    assert table.prices == pytest.approx((2.1, 2.1, 1.0))  # the integrals went along
    table.update({0.2: 0.6}, weights={0.2: 3.0})
    assert table.prices == pytest.approx((2.4, 2.4, 1.0))
    low = PriceTable([0.1, 0.2], Gains(1, 0, 0), prices=[0.5, 0.4])
    for use in (0.5, 0.2):  # 0.5 and 0.4 + 0.3, pooled; then on budget
        low.update({0.2: use})
        assert low.prices == pytest.approx((0.6, 0.6))


@given(
    st.lists(st.dictionaries(st.sampled_from([0.1, 0.2, 0.4]), st.floats(0, 1)), max_size=12),
    st.integers(0, 12),
)
def test_a_table_resumes_exactly_through_json(updates: list[dict[float, float]], cut: int) -> None:
    gains = Gains(0.3, 0.7, 0.2, delay=2, price_max=1.0)
    whole, first = PriceTable([0.1, 0.2, 0.4], gains), PriceTable([0.1, 0.2, 0.4], gains)
    for update in updates:
        whole.update(update)
        assert list(whole.prices) == sorted(whole.prices, reverse=True)
        assert all(0 <= price <= 1.0 for price in whole.prices)
    for update in updates[:cut]:
        first.update(update)
    second = PriceTable([0.1, 0.2, 0.4])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for update in updates[cut:]:
        second.update(update)
    assert second.states == whole.states and second.gains == whole.gains


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: PriceTable([]), "the grid needs one or more budgets in rising order"),
        (lambda: PriceTable([0.2, 0.1]), r"rising order, got \[0.2, 0.1\]"),
        (lambda: PriceTable([0.1, 20]), r"budget of the grid must be in \[0, 1\], got 20; did you mean 0.2"),
        (lambda: PriceTable([0.1], prices=[1.0, 2.0]), "for each of its 1 budgets"),
        (lambda: PriceTable([0.1], prices=[-1.0]), "a price in"),
        (lambda: PriceTable([0.1]).update({0.3: 0.1}), "budget 0.3 is not of the grid"),
        (lambda: PriceTable([0.1]).load_state_dict(PriceTable([0.2]).state_dict()), r"of the grid \[0.2\]"),
    ],
)
def test_a_table_refuses(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(WheelsError, match=message):
        act()


# --- the linear programme ---------------------------------------------------------------------------------------------

BUDGET = 0.3
ALPHA = 0.02  # the soft policy nears the programme's as this goes to 0


def constrained(seed: int, alpha: float = ALPHA, **options: bool) -> TextProcess:
    """Texts of a fixed length, so that calls per token and calls per text are the same constraint."""
    process = random_process(seed, alpha=alpha, ends=False, **options)
    return replace(process, limit_value={s: 0.0 for s in process.limit_value})


def occupancy(process: TextProcess, solution: Solution) -> dict[Prefix, float]:
    """How often the soft policy visits each state."""
    mass = {(): 1.0}
    for s, logit in sorted(solution.call_logit.items(), key=lambda item: len(item[0])):
        g = 1 / (1 + math.exp(-logit)) if logit > -500 else 0.0
        law = (1 - g) * process.write_law(s) + g * process.call_law(s)
        for v, probability in enumerate(law.tolist()):
            mass[(*s, v)] = mass[s] * probability if s in mass else 0.0
    return mass


def evaluate(process: TextProcess, price: float) -> tuple[float, float, float]:
    """Use, mean reward of a text without price and entropy, and mean g (1 - g), of the soft optimum at a price."""
    solution = solve(replace(process, price=price))
    mass = occupancy(process, solution)
    use = reward = variance = 0.0
    for s, logit in solution.call_logit.items():
        g = 1 / (1 + math.exp(-logit)) if logit > -500 else 0.0
        use += mass[s] * g
        variance += mass[s] * g * (1 - g)
        reward += mass[s] * (1 - g) * write_reward(process, s)
    return use / process.horizon, reward, variance / process.horizon


def write_reward(process: TextProcess, s: Prefix) -> float:
    if process.by_regret:
        return -process.regret(s)
    return float(process.log_q[s].exp() @ (process.log_p[s] - process.log_q[s]))


def linear_programme(process: TextProcess, budget: float) -> tuple[float, float]:
    """Greatest reward over occupancy measures with at most `budget` calls per token, and the constraint's dual."""
    states = [s for s in process.log_p if not process.is_over(s)]
    place = {s: i for i, s in enumerate(states)}
    flow = np.zeros((len(states), 2 * len(states)))
    for s, i in place.items():
        flow[i, 2 * i : 2 * i + 2] += 1
        for action, law in enumerate((process.write_law(s), process.call_law(s))):
            for v, probability in enumerate(law.tolist()):
                if (*s, v) in place:
                    flow[place[(*s, v)], 2 * i + action] -= probability
    reward = np.array([value for s in states for value in (write_reward(process, s), 0.0)])
    calls = np.tile([0.0, 1.0], len(states))[None]
    start = np.eye(len(states))[0]
    found = linprog(-reward, A_ub=calls, b_ub=[budget * process.horizon], A_eq=flow, b_eq=start)
    return -found.fun, -float(found.ineqlin.marginals[0])


def controlled(process: TextProcess, gains: Gains, updates: int = 400) -> PIDState:
    state = PIDState()
    for _ in range(updates):
        state = pid_update(state, evaluate(process, state.price)[0], BUDGET, gains)
    return state


@pytest.mark.parametrize("options", [{}, *slow({"greedy": True})])
@pytest.mark.parametrize("seed", [0, *slow(2)])
def test_price_and_policy_agree_with_the_linear_programme(seed: int, options: dict[str, bool]) -> None:
    process = constrained(seed, **options)
    best, dual = linear_programme(process, BUDGET)
    assert dual > 0.1  # the budget binds
    price = controlled(process, Gains(0.1, 0.1, 0, smoothing=0.5)).price
    use, reward, _ = evaluate(process, price)
    assert use == pytest.approx(BUDGET, abs=1e-3)
    assert price == pytest.approx(dual, abs=0.1)
    assert reward == pytest.approx(best, abs=2 * ALPHA * process.horizon * math.log(2))
    assert evaluate(process, dual + 0.3)[0] < BUDGET < evaluate(process, dual - 0.3)[0]


def test_a_budget_that_does_not_bind_is_free() -> None:
    process, ample = constrained(0, greedy=True), 0.9
    assert linear_programme(process, ample)[1] == pytest.approx(0.0)
    state = pid_start(1.0)
    for _ in range(100):
        state = pid_update(state, evaluate(process, state.price)[0], ample, Gains())
    assert state.price == 0.0


def test_without_the_integral_use_stays_off_the_budget() -> None:
    process = constrained(0, alpha=0.5)
    proportional = controlled(process, Gains(0, 1, 0, smoothing=0.5), updates=100)
    whole = controlled(process, Gains(1, 1, 0, smoothing=0.5), updates=100)
    assert evaluate(process, whole.price)[0] == pytest.approx(BUDGET, abs=1e-3)
    assert evaluate(process, proportional.price)[0] > BUDGET + 0.05


def test_the_slope_of_use_is_the_variance_of_cost_over_alpha() -> None:
    """Exactly so for a text's summed cost where a decision decides the next state (greedy, gamma 1)."""
    process, price, step = constrained(1, alpha=0.4, greedy=True), 0.7, 1e-4
    solution = solve(replace(process, price=price))
    gate = {s: 1 / (1 + math.exp(-logit)) for s, logit in solution.call_logit.items()}
    paths = every_path(process, gate)
    calls = np.array([sum(called for _, called, _ in path.steps) for path in paths])
    law = np.array([path.probability for path in paths])
    variance = law @ calls**2 - (law @ calls) ** 2
    slope = (evaluate(process, price + step)[0] - evaluate(process, price - step)[0]) / (2 * step)
    assert law.sum() == pytest.approx(1) and variance > 0.1
    assert slope * process.horizon == pytest.approx(-variance / process.alpha, rel=1e-4)
