"""Path consistency on forks: exact at the soft optimum, and learned from noisy ones; prices of budgets."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from tests.agents.rl.mdp import Texts, no_spans
from wheels.agents.rl.agent import (
    LagrangianAgent,
    PCLAgent,
    PCLSettings,
    fork_residuals,
    price_for,
    starting_prices,
)
from wheels.agents.rl.lagrangian import PriceTable
from wheels.agents.rl.paths import Forks
from wheels.errors import WheelsError
from wheels.policy.head import DeferralHead, HeadConfig

FEATURES = 6


def expected(texts: Texts, logit_S: torch.Tensor, change: dict[str, float] | None = None) -> torch.Tensor:
    """The expectation of each state's residual over all ways on, under the gate with these logits."""
    logit = dict(zip(texts.states, logit_S.tolist(), strict=True))
    forks, share_N, place_N = texts.forks(logit)
    forks = replace(forks, **{name: scale * getattr(forks, name) for name, scale in (change or {}).items()})
    price_N = torch.full_like(forks.reward_N, texts.price)
    residual_N = fork_residuals(logit_S[place_N], forks, price_N, texts.alpha, kappa=1.0)
    return torch.zeros_like(logit_S).index_add(0, place_N, share_N * residual_N)


def optimum(texts: Texts) -> torch.Tensor:
    solution = texts.solve()
    return torch.tensor([solution[state] for state in texts.states], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_residuals_vanish_in_expectation_at_the_soft_optimum_and_nowhere_else(seed: int) -> None:
    texts = Texts(seed)
    best_S = optimum(texts)
    assert expected(texts, best_S).abs().max() < 1e-12
    assert expected(texts, best_S + 0.1).abs().max() > 0.05
    for other in (replace(texts, price=1.0), replace(texts, budget=0.5), replace(texts, alpha=0.5)):
        assert expected(other, best_S).abs().max() > 0.01


@pytest.mark.parametrize("left_out", ["calls_N", "tokens_N", "entropy_N"])
def test_what_follows_from_a_call_is_part_of_it(left_out: str) -> None:
    texts = Texts(1)
    assert expected(texts, optimum(texts), {left_out: 0.0}).abs().max() > 0.05


def test_policy_iteration_on_forks_finds_the_optimum() -> None:
    """Each round the gate takes the logit at which its expected residual is 0, under the policy of the round before."""
    texts = Texts(2)
    logit_S = torch.zeros(len(texts.states), dtype=torch.float64)
    for _ in range(texts.horizon):
        logit_S = logit_S + expected(texts, logit_S) / texts.alpha
    torch.testing.assert_close(logit_S, optimum(texts))


def head_of(seed: int = 0, scale: float = 1.0) -> DeferralHead:
    """A head whose gain is near `2 + scale x_0`."""
    return copy.deepcopy(fitted(seed, scale))


@cache
def fitted(seed: int, scale: float) -> DeferralHead:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = DeferralHead(HeadConfig(FEATURES, 128, shift_reads="numbers"))
        features_NF = torch.randn(500, FEATURES)
        optimizer = torch.optim.Adam(head.regressed(), 1e-2)
        for _ in range(150):
            loss = (head.gain(features_NF, torch.zeros(500)) - 2 - scale * features_NF[:, 0]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.requires_grad_(False)


def noisy(count: int, seed: int = 0) -> tuple[Forks, torch.Tensor]:
    """Forks whose reward is three times a gain in nats, with much noise; and that gain."""
    draw = torch.Generator().manual_seed(seed)
    features_NF = torch.randn(count, FEATURES, generator=draw)
    budget_N = torch.tensor([0.1, 0.3])[torch.randint(2, (count,), generator=draw)]
    calls_N = 1 + torch.randint(-1, 2, (count,), generator=draw).float() + (features_NF[:, 2] > 0).float()
    gain_N = 2 + features_NF[:, 0] + features_NF[:, 1]
    reward_N = 3 * gain_N + 3 * torch.randn(count, generator=draw)
    zero_N = torch.zeros(count)
    return Forks(features_NF, budget_N, torch.ones(count), reward_N, calls_N, zero_N, zero_N, *no_spans(count)), gain_N


SETTINGS = PCLSettings(alpha=0.5, epochs=6, batch=256, learning_rate=3e-3, weight_decay=0.1)


@pytest.mark.slow
def test_the_gate_learns_its_gain_and_pays_for_later_calls() -> None:
    forks, gain_N = noisy(20_000)
    agent = PCLAgent(head_of(), SETTINGS, price=0.8)
    figures = agent.learn(forks)
    assert agent.kappa == pytest.approx(3.0, abs=0.2)
    # Later calls cost: on average 1 where x_2 > 0, and 0 elsewhere.
    wanted_N = gain_N - 0.8 * (forks.features_NF[:, 2] > 0)
    found_N = agent.head.gain(forks.features_NF, forks.budget_N)
    assert float((found_N - wanted_N).square().mean()) < 0.1 < float((gain_N - wanted_N).square().mean())
    assert figures["held_out_r2"] > 1.3 * figures["held_out_r2_warm_start"]


@pytest.mark.slow
def test_a_fit_begins_at_the_warm_start_and_is_the_same_again() -> None:
    forks, _ = noisy(1500)
    agent = PCLAgent(head_of(), SETTINGS, price=2.0)
    agent.learn(forks)
    first = {name: value.clone() for name, value in agent.head.state_dict().items()}
    agent.learn(noisy(1500, seed=1)[0])
    agent.learn(forks)
    assert all(value.equal(first[name]) for name, value in agent.head.state_dict().items())
    assert not all(value.equal(first[name]) for name, value in agent.start.state_dict().items())


@pytest.mark.parametrize("price", [0.0, 3.0])
def test_the_policys_logit_is_what_the_gain_exceeds_the_price_by(price: float) -> None:
    """z = (gain - price) / alpha, as in the residuals, with the price of each row."""
    agent, forks = PCLAgent(head_of(), SETTINGS, price), noisy(20)[0]
    agent.kappa = 3.0
    price_B = agent.price(forks.budget_N)
    logit_B = agent.logit(SimpleNamespace(features_BF=forks.features_NF, budget_B=forks.budget_N), price_B)
    gain_B = agent.head.gain(forks.features_NF, forks.budget_N)
    torch.testing.assert_close(SETTINGS.alpha * logit_B + price_B, gain_B)
    residual_B = fork_residuals(logit_B, forks, price_B, SETTINGS.alpha, kappa=3.0)
    torch.testing.assert_close(agent.residuals(forks), residual_B)


@pytest.mark.filterwarnings("ignore:cov")
@pytest.mark.parametrize("count", [9, 10, 25, 2400])
def test_a_step_is_a_batch_of_nine_forks_in_ten(count: int) -> None:
    """The loss begins at half the mean square of the residuals that are fitted, in units of what they deviate by."""
    forks, losses = noisy(count)[0], []
    agent = PCLAgent(head_of(), replace(SETTINGS, epochs=2, batch=1080), price=0.8)
    held = forks[9::10] if count >= 10 else forks
    fitted_N = torch.arange(count) % 10 != 9
    figures = agent.learn(forks, losses.append)
    assert len(losses) == agent.steps(forks) == 2 * (2 if count == 2400 else 1)
    assert figures["residual"] == pytest.approx(float(agent.residuals(held).abs().mean()), rel=1e-5)
    gain_N = agent.head.gain(held.features_NF, held.budget_N)
    share = torch.corrcoef(torch.stack([gain_N, held.reward_N]))[0, 1].square().nan_to_num(0.0)
    assert figures["held_out_r2"] == pytest.approx(float(share), abs=1e-5)
    if count < 1200:
        agent.head.load_state_dict(agent.start.state_dict())
        residual_N = agent.residuals(forks[fitted_N])
        assert losses[0] == pytest.approx(float(residual_N.square().mean() / residual_N.var() / 2), rel=1e-4)


@pytest.mark.parametrize(("shift", "sign"), [(0.0, 1.0), (-40.0, 1.0), (0.0, -1.0)])
def test_a_nat_is_worth_what_calls_gain_for_it(shift: float, sign: float) -> None:
    """kappa is the ratio of the means; where calls gain nothing, a hundredth of the ratio of the deviations."""
    forks = noisy(400)[0]
    forks = replace(forks, reward_N=sign * forks.reward_N + shift)
    agent = PCLAgent(head_of(), replace(SETTINGS, epochs=1), price=0.8)
    fitted = forks[torch.arange(400) % 10 != 9]
    gain_N = agent.start.gain(fitted.features_NF, fitted.budget_N)
    pays = shift == 0 and sign > 0
    ratio = fitted.reward_N.mean() / gain_N.mean() if pays else fitted.reward_N.std() / gain_N.std() / 100
    assert agent.learn(forks)["kappa"] == pytest.approx(float(ratio), rel=1e-4)
    assert agent.learn(noisy(100, seed=1)[0])["kappa"] == agent.kappa == pytest.approx(float(ratio), rel=1e-4)


def test_a_warm_start_that_tells_nothing_still_has_a_scale() -> None:
    agent = PCLAgent(head_of(), replace(SETTINGS, epochs=1), price=0.8)
    agent.start.base.weight.zero_()
    figures = agent.learn(noisy(100)[0])
    assert all(math.isfinite(figure) for figure in figures.values())
    assert figures["kappa"] > 0


@pytest.mark.slow
def test_the_price_decides_what_a_later_call_costs() -> None:
    forks, _ = noisy(6000)
    gains = []
    for price in (0.0, 3.0):
        agent = PCLAgent(head_of(), SETTINGS, price)
        agent.learn(forks)
        gains.append(agent.head.gain(forks.features_NF, forks.budget_N))
    pays_N = forks.features_NF[:, 2] > 0
    fell_N = gains[0] - gains[1]
    assert float(fell_N[pays_N].mean()) > float(fell_N[~pays_N].mean()) + 1


@pytest.mark.slow
def test_a_state_continues_to_the_same_bits() -> None:
    forks, _ = noisy(600)
    table = PriceTable((0.1, 0.3), prices=[2.0, 1.0])
    agent = LagrangianAgent(head_of(), SETTINGS, table)
    agent.observe({0.1: 0.2, 0.3: 0.3}, {0.1: 100.0, 0.3: 100.0})
    agent.learn(forks)
    other = LagrangianAgent(head_of(seed=5), SETTINGS, PriceTable((0.1, 0.3)))
    other.load_state_dict(agent.state_dict())
    more, _ = noisy(600, seed=3)
    assert agent.learn(more) == other.learn(more)
    assert agent.price(torch.tensor([0.1, 0.2])).equal(other.price(torch.tensor([0.1, 0.2])))
    assert agent.price(torch.tensor([0.1])).item() > 2.0, "use was above the budget"


def test_starting_prices_meet_each_budget_on_their_states() -> None:
    head, states_NF = head_of(), torch.randn(4000, FEATURES, generator=torch.Generator().manual_seed(2))
    table = starting_prices(head, (0.1, 0.4), 0.5, states_NF)
    gain_N = head.gain(states_NF, torch.zeros(len(states_NF)))
    for budget, price in zip(table.budgets, table.prices, strict=True):
        assert float(torch.sigmoid((gain_N - price) / 0.5).mean()) == pytest.approx(budget, abs=1e-4)
    assert price_for(gain_N, 0.25, 0.0, 20.0) == pytest.approx(float(gain_N.quantile(0.75)), abs=1e-2)


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.0), ("alpha", -1.0), ("learning_rate", float("nan"))])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(WheelsError, match=name):
        PCLSettings(**{name: value})
