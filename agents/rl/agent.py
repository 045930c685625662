"""The agents: path consistency on forked paths, at one price or under budgets with a price for each.

At a state both actions are taken, and both texts go on under the present policy (`wheels.agents.rl.paths`). Along each
the path residual is `C = -V(s) + sum_t u_t` (Nachum et al. 2017, https://arxiv.org/abs/1702.08892). In the difference
the value cancels, and the luck of what came before:

    C_call - C_write = (R_call - R_write) / kappa
                       - price(b) [(N_call - b T_call) - (N_write - b T_write)] - alpha [z - (H_call - H_write)]

R is the reward, N the calls and T the tokens to the end, H the entropies of the gate's later decisions, z its logit
here. The price is the multiplier of `E[sum_t (c_t - b)] <= 0`: the budget is kept as a ratio, and a call also pays for
the calls that follow from it. kappa, units of the reward for a nat of regret, keeps gains and prices in nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from wheels.agents.regression.fit import FitConfig, Progress, fit
from wheels.agents.rl.lagrangian import Gains, PriceTable
from wheels.agents.rl.paths import Forks
from wheels.decoding.step import Step
from wheels.errors import WheelsError, check_number
from wheels.policy.head import DeferralHead

HELD = 10
"""One fork in so many is not fitted: the figures are of these."""


def fork_residuals(
    call_logit_N: torch.Tensor, forks: Forks, price_N: torch.Tensor, alpha: float, kappa: float
) -> torch.Tensor:
    """Compute `C_call - C_write` of each fork, nats, `[N]`.

    Args:
        call_logit_N: z at the fork.
        forks: The differences of both texts.
        price_N: The price of each fork's budget, nats per call.
        alpha: Weight of the gate's entropy, nats.
        kappa: Units of the reward for a nat.
    """
    excess_N = forks.calls_N - forks.budget_N * forks.tokens_N
    return forks.reward_N / kappa - price_N * excess_N - alpha * (call_logit_N - forks.entropy_N)


@dataclass(frozen=True)
class PCLSettings:
    """How an agent learns; the fields are those of `wheels train`."""

    alpha: float = 0.25
    """Weight of the gate's entropy, nats: how random the policy is while it learns."""
    epochs: int = 4
    """Passes over the forks, each round."""
    batch: int = 2048
    """Forks in a gradient step."""
    learning_rate: float = 1e-3
    """The highest one of a OneCycle schedule."""
    weight_decay: float = 5.0
    """Strong: most of a fork's difference is luck."""
    seed: int = 0
    """Of the order of forks."""

    def __post_init__(self) -> None:
        """Check that all are numbers in their range."""
        for name in ("alpha", "learning_rate", "weight_decay"):
            check_number(name, getattr(self, name), 0)
        if self.alpha == 0:
            raise WheelsError("alpha must be above 0, got 0: the gate's logit is divided by it")


class PCLAgent:
    """A gate that learns by path consistency on forks, at one price.

    Args:
        head: The warm start (`wheels.agents.regression.warm_start`); each fit begins there.
        settings: How.
        price: Nats per call.
    """

    def __init__(self, head: DeferralHead, settings: PCLSettings, price: float) -> None:
        self.settings, self.fixed_price = settings, price
        self.start = head.frozen_copy()
        self.head = head.requires_grad_(False).eval()
        self.kappa = 0.0
        """Units of the reward for a nat, set by the first forks."""

    def price(self, budget_B: torch.Tensor) -> torch.Tensor:
        """Return the price of each budget, nats per call."""
        return torch.full_like(budget_B, self.fixed_price)

    def logit(self, step: Step, price_B: torch.Tensor) -> torch.Tensor:
        """Compute the gate's logits `z = (gain(s, b) - price) / alpha`, `[B]`: the policy of `rl.paths.play`."""
        with torch.no_grad():
            return (self.head.gain(step.features_BF, step.budget_B) - price_B) / self.settings.alpha

    def steps(self, forks: Forks) -> int:
        """Return how many steps `learn` takes."""
        fitted = len(forks) - len(forks) // HELD
        return self.settings.epochs * -(-fitted // self.settings.batch)

    def learn(self, forks: Forks, progress: Progress | None = None) -> dict[str, float]:
        """Fit the gate from its warm start to all forks so far, at the present prices; return what was measured.

        Minimises the mean of `(C_call - C_write)^2 / 2`, in units of what the differences deviate by.

        Args:
            forks: Of this round and of those before.
            progress: Called with the loss of each step.

        Raises:
            WheelsError: where the loss, or what it leads to, is no finite number.
        """
        held_N = torch.arange(len(forks)) % HELD == HELD - 1
        fitted, held = forks[~held_N], forks[held_N] if len(forks) >= HELD else forks
        self.kappa = self.kappa or self._scale(fitted)
        self.head.load_state_dict(self.start.state_dict())
        zero = self.residuals(fitted).std().clamp(min=1e-6)
        settings = self.settings
        config = FitConfig(
            epochs=settings.epochs,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            seed=settings.seed,
        )
        parameters = list(self.head.requires_grad_(True).parameters())
        fit(
            parameters,
            lambda some: (self.residuals(fitted[some]) / zero).square().mean() / 2,
            len(fitted),
            config,
            progress,
            name="forks",
        )
        self.head.requires_grad_(False)
        return self._figures(held) | {"forks": float(len(forks)), "kappa": self.kappa}

    def residuals(self, forks: Forks) -> torch.Tensor:
        """Compute `fork_residuals` of the present gate at the present prices."""
        price_N = self.price(forks.budget_N)
        logit_N = (self.head.gain(forks.features_NF, forks.budget_N) - price_N) / self.settings.alpha
        return fork_residuals(logit_N, forks, price_N, self.settings.alpha, self.kappa)

    def _scale(self, forks: Forks) -> float:
        """Return what a call gains in reward over what it saves in predicted regret, both on average.

        Where calls do not gain it is a hundredth of what both deviate by: any scale will do there, but 0.
        """
        gain_N = self.start.gain(forks.features_NF, forks.budget_N)
        least = float(forks.reward_N.std() / gain_N.std().clamp(min=1e-6)) / 100
        return max(float(forks.reward_N.mean() / gain_N.mean().clamp(min=1e-6)), least, 1e-6)

    @torch.no_grad()
    def _figures(self, held: Forks) -> dict[str, float]:
        """Return the residual, and the share of the reward's variance that the gain foretells, on forks not fitted."""
        gains = [head.gain(held.features_NF, held.budget_N) for head in (self.head, self.start)]
        explained = [torch.corrcoef(torch.stack([gain_N, held.reward_N]))[0, 1] for gain_N in gains]
        names = ("held_out_r2", "held_out_r2_warm_start")
        shares = {name: float(one.nan_to_num(0.0).square()) for name, one in zip(names, explained, strict=True)}
        return {"residual": float(self.residuals(held).abs().mean())} | shares

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to continue to the same bits."""
        return {"head": self.head.state_dict(), "start": self.start.state_dict(), "kappa": self.kappa}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.head.load_state_dict(state["head"])
        self.start.load_state_dict(state["start"])
        self.kappa = state["kappa"]


class LagrangianAgent(PCLAgent):
    """The same under budgets: `max J subject to E[sum_t (c_t - b)] <= 0`, a price for each budget of a grid.

    One head serves all budgets: its inputs include the budget. Prices follow the measured use (`rl.lagrangian`).

    Args:
        head: The warm start; each fit begins there.
        settings: How.
        table: The grid and its first prices.
    """

    def __init__(self, head: DeferralHead, settings: PCLSettings, table: PriceTable) -> None:
        super().__init__(head, settings, math.nan)  # its prices are the table's
        self.table = table

    def price(self, budget_B: torch.Tensor) -> torch.Tensor:
        """Return the price of each budget, nats per call."""
        return self.table.prices_at(budget_B)

    def observe(self, use: Mapping[float, float], weights: Mapping[float, float]) -> None:
        """Move the prices by the measured use of each budget."""
        self.table.update(use, weights)

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to continue to the same bits."""
        return {**super().state_dict(), "table": self.table.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        super().load_state_dict(state)
        self.table.load_state_dict(state["table"])


def starting_prices(
    head: DeferralHead,
    budgets: tuple[float, ...],
    alpha: float,
    features_NF: torch.Tensor,
    per_call: float = 1.0,
) -> PriceTable:
    """Return the prices at which a gate meets each budget on the given states.

    Solves `mean sigmoid((gain - price) / alpha) = share` for each budget, by bisection.

    Args:
        head: Gives the gains.
        budgets: The grid.
        alpha: Weight of the gate's entropy, nats.
        features_NF: The states.
        per_call: Tokens that a call buys, on average.
    """
    gains, prices = Gains(), []
    for budget in budgets:
        with torch.no_grad():
            gain_N = head.gain(features_NF, torch.full((len(features_NF),), budget))
        prices.append(price_for(gain_N, share_of_states(budget, per_call), alpha, gains.price_max))
    return PriceTable(budgets, gains, prices)


def share_of_states(budget: float, per_call: float) -> float:
    """Return the share s of states that call where a share b of tokens is the teacher's: `s = b / (b + k (1 - b))`.

    Args:
        budget: b.
        per_call: k, the tokens that a call buys; at every other state the student writes one.
    """
    return budget / (budget + per_call * (1 - budget))


def price_for(gain_N: torch.Tensor, share: float, alpha: float, price_max: float) -> float:
    """Solve `mean sigmoid((gain - price) / alpha) = share` for the price, in [0, price_max], by bisection.

    With alpha = 0 the gate calls where the gain exceeds the price.
    """
    low, high = 0.0, price_max
    for _ in range(50):
        middle = (low + high) / 2
        over_N = gain_N - middle
        use = float(torch.sigmoid(over_N / alpha).mean() if alpha else (over_N > 0).float().mean())
        low, high = (middle, high) if use > share else (low, middle)
    return (low + high) / 2
