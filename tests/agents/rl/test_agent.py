"""The agents on problems whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wheels.agents.regression.warm_start import WarmStart, explained, fit_regret
from wheels.agents.rl.agent import LagrangianAgent, PCLAgent, PCLSettings, price_for, starting_prices
from wheels.agents.rl.episode import Episode, EpisodeBatch, collate
from wheels.agents.rl.lagrangian import PriceTable
from wheels.errors import WheelsError
from wheels.policy.head import DeferralHead, HeadConfig

WIDTH = 4
BUDGETS = (0.1, 0.3)


def draw_episodes(count: int, seed: int, steps: int = 8) -> list[Episode]:
    """Episodes of a problem with a known gain: the regret is drawn around `3 x_0` where `x_0 > 0`, and 0 elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    episodes = []
    for number in range(count):
        features_TF = torch.randn(steps, WIDTH, generator=generator)
        noise_T = torch.rand(steps, generator=generator) * 2
        regret_T = known_gain(features_TF) * noise_T
        episodes.append(
            Episode(
                features_TF=features_TF,
                final_features_F=torch.zeros(WIDTH),
                call_T=torch.rand(steps, generator=generator) < 0.3,
                regret_T=regret_T,
                log_p_token_T=-regret_T,
                log_q_token_T=torch.zeros(steps),
                call_logit_T=torch.zeros(steps),
                cost_T=torch.ones(steps),
                budget=BUDGETS[number % 2],
                price=0.0,
                terminated=True,
            )
        )
    return episodes


def known_gain(features_NF: torch.Tensor) -> torch.Tensor:
    """`E[regret | x] = 3 max(x_0, 0)`."""
    return 3.0 * features_NF[..., 0].clamp(min=0.0)


def fresh_head(seed: int = 0) -> DeferralHead:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DeferralHead(HeadConfig(WIDTH, width=32))


def batch_of(count: int = 64, seed: int = 0) -> EpisodeBatch:
    return collate(draw_episodes(count, seed))


@pytest.mark.slow
def test_the_warm_start_finds_the_expected_regret() -> None:
    episodes = draw_episodes(1500, 0)
    features_NF = torch.cat([episode.features_TF for episode in episodes])
    regret_N = torch.cat([episode.regret_T for episode in episodes])
    head = fit_regret(features_NF, regret_N, WarmStart(width=32, epochs=30, learning_rate=1e-2))
    seen = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(9))
    gain_N = head(seen, torch.zeros(500)).gain_B.detach()
    assert float((gain_N - known_gain(seen)).abs().mean()) < 0.15
    # Noise that no feature tells keeps the share below 1; a head that was never trained explains nothing.
    assert 0.5 < explained(head, features_NF, regret_N) < 0.9
    assert explained(fresh_head(), features_NF, regret_N) < 0.1


def test_at_gamma_0_the_gate_loss_is_the_regression_loss_and_the_price_cancels() -> None:
    batch = batch_of()
    for price in (0.0, 3.0):
        agent = PCLAgent(fresh_head(), PCLSettings(gamma=0.0, regret_clip=100.0), price)
        _, figures = agent.loss(batch)
        gain_BT = agent.head(batch.features_BTF, batch.budget_B[:, None].expand(batch.mask_BT.shape)).gain_B
        expected = float((batch.regret_BT - gain_BT.detach()).square().mean() / 2)
        assert figures["gate"] == pytest.approx(expected, rel=1e-4)
    shifted = replace(batch, regret_BT=batch.regret_BT + 1.0)
    assert agent.loss(shifted)[1]["gate"] != pytest.approx(expected, rel=1e-2)


def gate_gradient(path: float, value_error: float) -> float:
    """The gradient of the gate's bias under values that are wrong by a constant."""
    settings = PCLSettings(gamma=0.0, path=path, trust=0.0, cost_weight=0.0, clip=1e9)
    agent = PCLAgent(fresh_head(), settings, price=3.0)
    with torch.no_grad():
        agent.head.critic[-1].bias[0] += value_error
    loss, _ = agent.loss(batch_of())
    loss.backward()
    assert agent.head.base.bias.grad is not None
    return float(agent.head.base.bias.grad)


def test_an_error_of_the_value_pulls_the_gate_only_along_the_path() -> None:
    assert gate_gradient(0.0, 5.0) == pytest.approx(gate_gradient(0.0, 0.0), abs=1e-5)
    assert abs(gate_gradient(1.0, 5.0) - gate_gradient(1.0, 0.0)) > 0.1


@pytest.mark.slow
def test_the_lagrangian_learns_the_gain_and_ends_at_the_budgets() -> None:
    agent = LagrangianAgent(fresh_head(), PCLSettings(learning_rate=3e-3, trust=0.0), PriceTable(BUDGETS))
    states = torch.randn(2000, WIDTH, generator=torch.Generator().manual_seed(5))
    for step in range(400):
        agent.learn(batch_of(64, seed=step % 40))
        use = {b: float(agent.predict(states, torch.full((2000,), b)).mean()) for b in BUDGETS}
        agent.observe(use, dict.fromkeys(BUDGETS, 1.0))
    gain_N = agent.head(states, torch.full((2000,), 0.1)).gain_B.detach()
    assert float(torch.corrcoef(torch.stack([gain_N, known_gain(states)]))[0, 1]) > 0.97
    for budget, share in use.items():
        assert share == pytest.approx(budget, abs=0.02)
    # The price that holds the budget at the true gain is the one that was learned.
    for budget, price in zip(BUDGETS, agent.table.prices, strict=True):
        assert price == pytest.approx(price_for(known_gain(states), budget, 0.5, 20.0), abs=0.35)


def test_the_trust_region_holds_the_gate_at_its_warm_start() -> None:
    moved = []
    for trust in (0.0, 100.0):
        agent = PCLAgent(fresh_head(), PCLSettings(learning_rate=1e-3, trust=trust), price=1.0)
        for step in range(30):
            agent.learn(batch_of(32, seed=step))
        batch = batch_of()
        budget_BT = batch.budget_B[:, None].expand(batch.mask_BT.shape)
        now, then = agent.head(batch.features_BTF, budget_BT), agent.reference(batch.features_BTF, budget_BT)
        moved.append(float((now.gain_B - then.gain_B).abs().mean()))
    assert moved[1] < moved[0] / 5


def test_values_alone_are_learned_while_the_critic_goes_first() -> None:
    agent = PCLAgent(fresh_head(), PCLSettings(), price=1.0)
    before = {name: value.clone() for name, value in agent.head.named_parameters()}
    agent.learn(batch_of(), critic_only=True)
    moved = {
        name.split(".")[0] for name, value in agent.head.named_parameters() if not torch.equal(value, before[name])
    }
    assert moved == {"critic"}


def test_a_discount_changes_what_is_learned() -> None:
    gates = []
    for gamma in (0.0, 0.9):
        agent = PCLAgent(fresh_head(), PCLSettings(gamma=gamma, learning_rate=1e-3, trust=0.0), price=1.0)
        for step in range(20):
            agent.learn(batch_of(32, seed=step))
        gates.append(agent.predict(torch.randn(50, WIDTH), torch.full((50,), 0.1)))
    assert not torch.allclose(gates[0], gates[1], atol=1e-4)


def test_one_seed_gives_one_agent() -> None:
    def train() -> torch.Tensor:
        agent = PCLAgent(fresh_head(3), PCLSettings(), price=1.0)
        for step in range(5):
            agent.learn(batch_of(16, seed=step))
        return torch.cat([value.flatten() for value in agent.head.parameters()])

    assert torch.equal(train(), train())


def test_a_saved_agent_predicts_the_same(tmp_path: Path) -> None:
    states, budget_B = torch.randn(20, WIDTH), torch.full((20,), 0.2)
    agent = LagrangianAgent(fresh_head(), PCLSettings(), PriceTable(BUDGETS, prices=(3.0, 1.0)))
    agent.learn(batch_of())
    agent.save(tmp_path / "budgets")
    again = LagrangianAgent.load(tmp_path / "budgets")
    assert torch.equal(agent.predict(states, budget_B), again.predict(states, budget_B))
    assert again.table.prices == agent.table.prices
    single = PCLAgent(fresh_head(), PCLSettings(), price=1.5)
    single.save(tmp_path / "price")
    assert torch.equal(single.predict(states, budget_B), PCLAgent.load(tmp_path / "price").predict(states, budget_B))
    tokens = PCLAgent(DeferralHead(HeadConfig(WIDTH - 2, width=8, candidates=2, vocab_size=7)), PCLSettings())
    tokens.save(tmp_path / "tokens")
    named = torch.cat([states[:, :2], torch.randint(7, (20, 2))], -1)
    assert torch.equal(tokens.predict(named, budget_B), PCLAgent.load(tmp_path / "tokens").predict(named, budget_B))
    with pytest.raises(WheelsError, match="load it as LagrangianAgent"):
        PCLAgent.load(tmp_path / "budgets")
    with pytest.raises(WheelsError, match="load it as PCLAgent"):
        LagrangianAgent.load(tmp_path / "price")


def test_what_is_no_agent_or_no_number_is_refused(tmp_path: Path) -> None:
    agent = PCLAgent(fresh_head(), PCLSettings(), price=1.5)
    with torch.no_grad():
        next(agent.head.parameters()).view(-1)[0] = math.nan
    agent.save(tmp_path)
    with pytest.raises(WheelsError, match=r"the head in .*: the weight .* is nan, no finite number; train again"):
        PCLAgent.load(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(WheelsError, match=r"holds no agent that can be read \(.*\); train again"):
        PCLAgent.load(tmp_path)
    for value in (-1.0, math.nan, math.inf, "0.5", None):
        with pytest.raises(WheelsError, match="trust must be"):
            PCLSettings(trust=value)
    with pytest.raises(WheelsError, match=r"gamma must be at most 1, got 1\.5"):
        PCLSettings(gamma=1.5)
    with pytest.raises(WheelsError, match="alpha must be above 0, got 0"):
        PCLSettings(alpha=0.0)


def test_starting_prices_keep_the_budgets_of_the_warm_start() -> None:
    states = torch.randn(1000, WIDTH, generator=torch.Generator().manual_seed(1))
    head = fresh_head()
    with torch.no_grad():
        head.base.bias += 2.0
    table = starting_prices(head, BUDGETS, 0.5, states)
    agent = LagrangianAgent(head, PCLSettings(), table)
    for budget in BUDGETS:
        assert float(agent.predict(states, torch.full((1000,), budget)).mean()) == pytest.approx(budget, abs=1e-3)
