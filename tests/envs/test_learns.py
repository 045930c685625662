"""MaskablePPO, an agent of other people's, learns in the factorised form whether calls are worth their price."""

import numpy as np
import pytest
import torch

from tests.envs.tiny import ROWS
from wheels.envs.deferral import DeferralEnv
from wheels.models.pair import Pair

EPISODES = 12


def use_of(model: object, env: DeferralEnv) -> float:
    """The share of tokens that a sampling policy has the teacher write."""
    torch.manual_seed(1)
    calls = []
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            action, _ = model.predict(observation, action_masks=env.action_masks())
            observation, _, terminated, truncated, info = env.step(action)
            calls.append(info["cost"])
            ended = terminated or truncated
    return float(np.mean(calls))


@pytest.mark.slow
@pytest.mark.parametrize(("price", "learned"), [(0.0, True), (30.0, False)])
def test_maskable_ppo(t5_pair: Pair, price: float, learned: bool) -> None:
    sb3_contrib, logger = pytest.importorskip("sb3_contrib"), pytest.importorskip("stable_baselines3.common.logger")
    # A regret is at most 20 nats: at price 30 no call pays, at price 0 none does harm.
    env = DeferralEnv(t5_pair, ROWS, max_new_tokens=6, budget=1.0, price=price, charge_price=True)
    model = sb3_contrib.MaskablePPO(
        "MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=6, learning_rate=3e-3, gamma=0.0, seed=0
    )
    model.set_logger(logger.Logger(None, []))
    before, start = use_of(model, env), [value.detach().clone() for value in model.policy.parameters()]
    model.learn(384)
    after = use_of(model, env)
    assert any(not torch.equal(old, new) for old, new in zip(start, model.policy.parameters(), strict=True))
    assert 0.2 < before < 0.8
    assert after > 0.9 if learned else after < 0.1


@pytest.mark.slow
def test_an_empty_budget_is_masked_from_the_agent(t5_pair: Pair) -> None:
    sb3_contrib, logger = pytest.importorskip("sb3_contrib"), pytest.importorskip("stable_baselines3.common.logger")
    env = DeferralEnv(t5_pair, ROWS, max_new_tokens=6, budget=0.4, mode="strict")
    model = sb3_contrib.MaskablePPO("MultiInputPolicy", env, n_steps=32, batch_size=32, seed=0)
    model.set_logger(logger.Logger(None, []))
    refused: list[bool] = []
    step = env.step
    env.step = lambda action: (refused.append((shown := step(action))[-1]["call_refused"]), shown)[1]
    model.learn(32)
    assert len(refused) == 32
    assert not any(refused)
