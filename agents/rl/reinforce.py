"""REINFORCE with a leave-one-out baseline: the gate by policy gradient, from K texts of each prompt.

    grad J = E[1/K sum_i (R_i - mean_{j != i} R_j) sum_t grad log pi(a_t | s_t)],   R = metric - price(b) (N - b T)

Each text has its own draws of the gate `sigmoid((gain(s, b) - price(b)) / alpha)`; the teacher writes N of T tokens.
Kool et al. 2019 (https://openreview.net/forum?id=r1lgTGL5DE); for language models Ahmadian et al. 2024
(https://arxiv.org/abs/2402.14740). Left out of GRPO (https://arxiv.org/abs/2402.03300): the division by the group's
deviation, and clipped ratios, which are 1 where each batch is learned from once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wheels.agents.gate import gate_log_probs
from wheels.agents.rl.lagrangian import PriceTable
from wheels.envs.settings import Start
from wheels.envs.vector import DeferralVectorEnv
from wheels.finite import check_finite
from wheels.policy.head import DeferralHead
from wheels.runs import chunks
from wheels.runs.tensors import STATE

BLOCK = 20
"""Rounds between two writes to disk."""
Gate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From the features and budgets of some states to the logits of a call."""


@dataclass(frozen=True)
class ReinforceSettings:
    """How the gate learns."""

    rounds: int
    """Gradient steps, each from texts of its own."""
    prompts: int = 64
    samples: int = 4
    """K, of each prompt."""
    alpha: float = 0.5
    learning_rate: float = 1e-4
    gradient_norm: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Samples:
    """B texts, and the N states on their ways."""

    features_NF: torch.Tensor
    call_N: torch.Tensor
    text_N: torch.Tensor
    """The text of each state."""
    budget_B: torch.Tensor
    reward_B: torch.Tensor
    """The metric, nats."""

    def sum_B(self, value_N: torch.Tensor) -> torch.Tensor:
        """Sum over the states of each text."""
        return torch.zeros_like(self.reward_B).index_add(0, self.text_N, value_N.to(self.reward_B))


def sample(env: DeferralVectorEnv, gate: Gate, starts: Sequence[Start]) -> Samples:
    """Write texts in an environment that rewards them with the metric alone, by random decisions of the gate."""
    first = env.feed(starts).start
    env.reset(seed=0)
    budget_B = torch.tensor([start.budget for start in starts], dtype=torch.float64)
    reward_B, states = torch.zeros_like(budget_B), []
    while env.waiting or bool(env.active_B.any()):
        step, row_R = env.state, env.active_B.nonzero().squeeze(-1)
        features_RF, text_R = step.features_BF[row_R], torch.from_numpy(env.numbers)[row_R] - first
        with torch.no_grad():
            call_R = step.noise_B[row_R] < gate(features_RF, budget_B[text_R]).sigmoid()
        states.append((features_RF, call_R, text_R))
        action_B = torch.zeros(env.num_envs, dtype=torch.int64).index_copy(0, row_R, call_R.long())
        reward_B[text_R] += torch.from_numpy(env.step(action_B.numpy())[1])[row_R]
    features_NF, call_N, text_N = (torch.cat(part) for part in zip(*states, strict=True))
    return Samples(features_NF, call_N, text_N, budget_B, reward_B)


def returns(texts: Samples, price_B: torch.Tensor) -> torch.Tensor:
    """Compute `R = metric - price (N - b T)` of each text, nats."""
    return texts.reward_B - price_B * texts.sum_B(texts.call_N.double() - texts.budget_B[texts.text_N])


def leave_one_out(return_B: torch.Tensor, samples: int) -> torch.Tensor:
    """Compute each return minus the mean of the others of its prompt; `samples` in a row are of one."""
    return_PK = return_B.view(-1, samples)
    return ((return_PK - return_PK.mean(1, keepdim=True)) * samples / (samples - 1)).flatten()


def policy_loss(texts: Samples, logit_N: torch.Tensor, advantage_B: torch.Tensor) -> torch.Tensor:
    """Compute `-mean_B advantage sum_t log pi(a_t | s_t)`, whose gradient is that of REINFORCE."""
    log_write_N, log_call_N = gate_log_probs(logit_N)
    return -(advantage_B * texts.sum_B(torch.where(texts.call_N, log_call_N, log_write_N))).mean()


def draw_starts(settings: ReinforceSettings, number: int, rows: int, budgets: Sequence[float]) -> list[Start]:
    """Draw the prompts of a round: each K times, under one budget of the grid."""
    draws = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    prompts = torch.randperm(rows, generator=draws)[: settings.prompts].tolist()
    seeds = torch.randint(2**31, (len(prompts), settings.samples), generator=draws).tolist()
    told = [(index, budgets[place % len(budgets)], seeds[place]) for place, index in enumerate(prompts)]
    return [Start(index, seed, budget, 0.0) for index, budget, own in told for seed in own]


def learn(
    texts: Samples, gate: Gate, table: PriceTable, optimizer: torch.optim.Optimizer, settings: ReinforceSettings
) -> dict[str, float]:
    """Take a gradient step, move the prices by the measured use, and return what was measured.

    Raises:
        WheelsError: where the return or the norm of its gradient is no finite number.
    """
    return_B, budget_N = returns(texts, table.prices_at(texts.budget_B)), texts.budget_B[texts.text_N]
    optimizer.zero_grad()
    policy_loss(texts, gate(texts.features_NF, budget_N), leave_one_out(return_B, settings.samples)).backward()
    norm = torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], settings.gradient_norm)
    figures = {"return": float(return_B.mean()), "gradient_norm": float(norm)}
    check_finite("reinforce", figures)
    optimizer.step()
    tokens = {budget: float((budget_N == budget).sum()) for budget in set(budget_N.tolist())}
    use = {budget: float(texts.call_N[budget_N == budget].sum()) / count for budget, count in tokens.items()}
    table.update(use, tokens)
    return figures | {f"use_{budget:g}": share for budget, share in use.items()}


def reinforce(
    env: DeferralVectorEnv,
    head: DeferralHead,
    table: PriceTable,
    settings: ReinforceSettings,
    folder: Path,
    note: Callable[[dict[str, float]], None],
) -> None:
    """Train a head and the prices of its budgets in place.

    Args:
        env: Its reward is `terminal`, in nats.
        head: The warm start.
        table: The budgets and their first prices.
        settings: How.
        folder: Where each block of rounds is kept, for a run that is killed.
        note: Is told the figures of each block's last round.
    """

    def gate(features_NF: torch.Tensor, budget_N: torch.Tensor) -> torch.Tensor:
        return (head.gain(features_NF, budget_N) - table.prices_at(budget_N)) / settings.alpha

    def block(first: int) -> dict[str, Any]:
        for number in range(first, min(first + BLOCK, settings.rounds)):
            texts = sample(env, gate, draw_starts(settings, number, len(env.rows), table.budgets))
            figures = learn(texts, gate, table, optimizer, settings)
        note({"rounds": number + 1.0, **figures})
        return {name: part.state_dict() for name, part in parts.items()}

    trained = [*head.requires_grad_(True).regressed(), *head.shift.parameters()]
    optimizer = torch.optim.AdamW(trained, settings.learning_rate, weight_decay=0.0)
    parts: dict[str, Any] = {"head": head, "optimizer": optimizer, "table": table}
    blocks = range(0, settings.rounds, BLOCK)
    for kept in tqdm(chunks(folder, None, blocks, block, STATE), total=len(blocks), desc="reinforce", unit="block"):
        for name, part in parts.items():
            part.load_state_dict(kept[name])
    head.requires_grad_(False)
