"""Train a policy of other people's in the environment: MaskablePPO (sb3-contrib) learns when to call.

    python examples/ppo/train.py --model runs/model --data DATA --output runs/ppo
    wheels calibrate --model runs/model --data DATA --rules runs/ppo/rule.py:ppo
    wheels bench curve --model runs/model --data DATA --rules learned,runs/ppo/rule.py:ppo --output runs/curve

The reward is the text's metric against its reference, minus the price of each call. Each budget has a price of its own,
which follows the measured use and is part of the observation. The policy starts where the model's `regret` rule is.
"""

import argparse
import copy
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from rule import policy_input
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

import wheels
from wheels.agents import DeferralHead, PriceTable
from wheels.agents.rl.agent import starting_prices
from wheels.data import Row, load_task
from wheels.envs import DeferralVectorEnv
from wheels.models.artefact import Artefact

BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.5)
SEEN = ("features", "budget", "price")
SCALE = 0.1
"""Of the rewards: ten points of the metric are 1."""
ALPHA = 0.5
"""Of the gate at the start, nats."""


class Texts(VecEnv):
    """The environment as stable-baselines3 knows one, with the price of each text's budget.

    Where a text has ended, the next step begins another whatever the action: there only one action is left, so that
    nothing is learned from it.
    """

    render_mode = None

    def __init__(self, envs: DeferralVectorEnv, table: PriceTable, points_per_nat: float) -> None:
        space = spaces.Dict({name: envs.single_observation_space[name] for name in SEEN})
        super().__init__(envs.num_envs, space, envs.single_action_space)
        self.envs, self.table, self.unit = envs, table, SCALE * points_per_nat
        self.ended_B = np.zeros(envs.num_envs, bool)
        self.calls, self.tokens = (dict.fromkeys(table.budgets, 0.0) for _ in range(2))
        self.read = dict.fromkeys(("texts", "tokens", "teacher's tokens"), 0)

    def reset(self) -> dict[str, np.ndarray]:
        """Begin a text in each row."""
        self.ended_B[:] = False
        return self._seen(self.envs.reset(seed=self._seeds[0])[0])

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions."""
        self.actions = actions

    def step_wait(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Write a token in each row that goes on."""
        budget_B, price_B = (self.observation[name][:, 0] for name in ("budget", "price"))
        observation, reward_B, terminated_B, truncated_B, info = self.envs.step(self.actions)
        wrote_B = info["token"] >= 0
        reward_B = reward_B - self.unit * price_B * (info["cost"] - budget_B) * wrote_B
        for budget in self.table.budgets:
            here_B = np.isclose(budget_B, budget) & wrote_B
            self.calls[budget] += info["cost"][here_B].sum()
            self.tokens[budget] += here_B.sum()
        self.ended_B = terminated_B | truncated_B
        for name, count in zip(self.read, (self.ended_B, wrote_B, info["cost"]), strict=True):
            self.read[name] += int(count.sum())
        return self._seen(observation), reward_B.astype(np.float32), self.ended_B, [{} for _ in wrote_B]

    def _seen(self, observation: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return what the policy sees."""
        price_B1 = self.table.prices_at(torch.as_tensor(observation["budget"])).numpy()
        self.observation = {**{name: observation[name] for name in SEEN}, "price": price_B1}
        return self.observation

    def move_prices(self) -> dict[float, float]:
        """Let each price follow the use that was measured since it last moved; return that use."""
        use = {budget: self.calls[budget] / count for budget, count in self.tokens.items() if count}
        self.table.update(use, {budget: self.tokens[budget] for budget in use})
        for count in (self.calls, self.tokens):
            count.update(dict.fromkeys(count, 0.0))
        return use

    def close(self) -> None:
        """Let the environment go."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, for each row."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **named: Any) -> list[Any]:
        """Return the result of a method, for each row."""
        return list(getattr(self, method_name)(*args, **named))

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return that no row is wrapped."""
        return [False] * self.num_envs

    def action_masks(self) -> np.ndarray:
        """Return the actions that make sense now, bool `[B, 2]`."""
        masks_BA = self.envs.action_masks()
        masks_BA[self.ended_B, 1] = False
        return masks_BA


class Seen(BaseFeaturesExtractor):
    """What policy and value read, from a head that is trained along."""

    def __init__(self, observation_space: spaces.Dict, head: DeferralHead) -> None:
        super().__init__(observation_space, 3 + head.config.features)
        self.head = copy.deepcopy(head).requires_grad_(True)

    def forward(self, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return `policy_input` of the observations."""
        return policy_input(self.head, seen["features"], seen["budget"][:, 0], seen["price"][:, 0])


class Prices(BaseCallback):
    """Moves the prices after each rollout."""

    def __init__(self, texts: Texts) -> None:
        super().__init__()
        self.texts = texts

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        use = ", ".join(f"{budget:g}: {share:.3f}" for budget, share in self.texts.move_prices().items())
        print(f"{self.texts.read['texts']} texts, use {use}", flush=True)


def with_references(pair: wheels.Pair, rows: Sequence[Row], count: int, max_new_tokens: int) -> list[Row]:
    """Return the rows with texts of the teacher as further references: the mean over several has less luck in it."""
    sources, sampling = [row.source for row in rows], wheels.Sampling(temperature=1.0)
    told = [wheels.DecodeParams(max_new_tokens=max_new_tokens, sampling=sampling, seed=seed) for seed in range(count)]
    sampled = [wheels.decode(pair, sources, wheels.teacher_only(), params) for params in told]
    texts = [tuple(traces[place].text for traces in sampled) for place in range(len(rows))]
    return [replace(row, references=several) for row, several in zip(rows, texts, strict=True)]


def first_look(envs: DeferralVectorEnv, head: DeferralHead) -> tuple[PriceTable, float]:
    """Return the prices at which the head would keep each budget, and a text's mean reward, from random calls."""
    envs.reset(seed=0)
    draws, features, rewards = np.random.default_rng(0), [], []
    while len(rewards) < 2 * envs.num_envs:
        features.append(envs.state.features_BF)
        _, reward_B, terminated_B, truncated_B, _ = envs.step((draws.random(envs.num_envs) < 0.2).astype(int))
        rewards += reward_B[terminated_B | truncated_B].tolist()
    return starting_prices(head, BUDGETS, ALPHA, torch.cat(features)), float(np.mean(rewards))


def learner(texts: Texts, head: DeferralHead, mean_reward: float, options: argparse.Namespace) -> MaskablePPO:
    """Return MaskablePPO with a policy that starts at `sigmoid((gain - price) / ALPHA)`, and values at the mean."""
    model = MaskablePPO(
        "MultiInputPolicy",
        texts,
        learning_rate=options.learning_rate,
        n_steps=options.steps,
        batch_size=options.rows * options.steps // 8,
        n_epochs=options.epochs,
        gamma=1.0,
        seed=options.seed,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": Seen,
            "features_extractor_kwargs": {"head": head},
            "share_features_extractor": False,
            "net_arch": {"pi": [], "vf": [64]},
            "ortho_init": False,
        },
    )
    layer = model.policy.action_net
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[1, :2] = torch.tensor([1.0, -1.0]) / ALPHA
        model.policy.value_net.bias.fill_(mean_reward)
    return model


def save(model: MaskablePPO, table: PriceTable, output: Path) -> None:
    """Write the policy, and the rule that reads it."""
    head = model.policy.pi_features_extractor.head
    saved = {
        "head": head.state_dict(),
        "config": asdict(head.config),
        "layer": model.policy.action_net.state_dict(),
        "budgets": table.budgets,
        "prices": table.prices,
    }
    output.mkdir(parents=True, exist_ok=True)
    torch.save(saved, output / "policy.pt")
    digest = hashlib.sha256((output / "policy.pt").read_bytes()).hexdigest()
    # A calibration knows a rule by its file: with another policy it is another file.
    rule = Path(__file__).with_name("rule.py").read_text(encoding="utf-8")
    (output / "rule.py").write_text(f"{rule}# policy.pt: {digest}\n", encoding="utf-8")


def main() -> None:
    """Train, and say where the rule is."""
    parser = argparse.ArgumentParser(description="Train MaskablePPO to call, from a trained model's regret rule.")
    parser.add_argument("--model", help="folder of a trained model (default: the embedded pair)")
    parser.add_argument("--data", default="embedded-translation", help="task or folder: its training split is written")
    parser.add_argument("--output", type=Path, default=Path("ppo"), help="folder of the policy and its rule")
    parser.add_argument("--texts", type=int, default=2000, help="texts to learn from, about")
    parser.add_argument("--points-per-nat", type=float, default=1.0, help="of the metric; wheels train measures it")
    parser.add_argument("--pseudo-references", type=int, default=4, help="sampled from the teacher for each text")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=int, default=4, help="passes over each rollout")
    parser.add_argument("--rows", type=int, default=64, help="texts in flight")
    parser.add_argument("--steps", type=int, default=64, help="steps of a rollout")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    artefact, rows = Artefact.load(options.model), load_task(options.data).train[: options.texts]
    rows = with_references(artefact.pair, rows, options.pseudo_references, options.max_new_tokens)
    head = artefact.head("regret")
    envs = DeferralVectorEnv(
        options.rows,
        artefact.pair,
        rows,
        budget=BUDGETS,
        reward="terminal",
        terminal_scale=SCALE,
        max_new_tokens=options.max_new_tokens,
        observed=SEEN,
    )
    table, mean_reward = first_look(envs, head)
    texts = Texts(envs, table, options.points_per_nat)
    model = learner(texts, head, mean_reward, options)
    while texts.read["texts"] < options.texts:
        model.learn(options.rows * options.steps, callback=Prices(texts), reset_num_timesteps=False)
    save(model, table, options.output)
    print("learned from " + ", ".join(f"{count} {name}" for name, count in texts.read.items()))
    print(f"written to {options.output}: the rule is {options.output / 'rule.py'}:ppo")


if __name__ == "__main__":
    main()
