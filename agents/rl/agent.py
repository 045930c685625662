"""The agents: Path Consistency Learning of the gate, at a fixed price or under budgets with a price for each.

Four verbs: `learn` from a batch of episodes, `predict` the call's probability, `save`, `load`. A loop that decodes,
learns and logs is `wheels.agents.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from wheels.agents.gate import both_action_residuals, call_reward, gate_log_probs, regret_reward, trust_region
from wheels.agents.rl.episode import EpisodeBatch
from wheels.agents.rl.lagrangian import Gains, PriceTable
from wheels.errors import MOST_NUMBER, WheelsError, check_number
from wheels.files import read_object, write_bytes, write_json
from wheels.finite import check_finite, check_weights
from wheels.models.loading import first_line
from wheels.policy.head import DeferralHead, HeadConfig, HeadOutput
from wheels.policy.path_consistency import (
    add_terminal,
    bootstrap,
    masked_mean,
    next_values,
    pcl_loss,
    single_step_residuals,
    suffix_residuals,
)

Share = Callable[[Iterator[torch.nn.Parameter]], None]


@dataclass(frozen=True)
class PCLSettings:
    """How an agent learns; the fields are those of `wheels train`."""

    gamma: float = 0.0
    """Discount in [0, 1]: at 0 the fixed point is the regression of the regret, at 1 the sum of regrets to the end."""
    alpha: float = 0.5
    """Weight of the gate's entropy, nats."""
    suffix_weight: float = 0.2
    """Weight of whole-suffix residuals beside single-step ones."""
    path: float = 0.1
    """How much of the gate's gradient of the residuals along the path is let through, beside the difference of both
    actions' residuals. An error of V pulls a gate that rarely calls through the former, and cancels in the latter."""
    trust: float = 1.0
    """Weight of the gate's divergence from the warm start's."""
    clip: float = 10.0
    """Residuals pull with at most this, in nats."""
    regret_clip: float = 6.0
    """A regret counts for at most this, in nats."""
    learning_rate: float = 1e-4
    target_rate: float = 0.02
    """Polyak step of the target network."""
    gradient_norm: float = 0.5
    cost_weight: float = 0.1
    """Weight of the cost-to-go's squared error."""

    def __post_init__(self) -> None:
        """Check that all are numbers, and shares where they are shares."""
        for field in fields(self):
            share = field.name in ("gamma", "path", "target_rate")
            check_number(field.name, getattr(self, field.name), 0, 1 if share else MOST_NUMBER)
        if self.alpha == 0:
            raise WheelsError("alpha must be above 0, got 0: the gate's logit is divided by it")


class PCLAgent:
    """A deferral head that learns by path consistency at one price.

    The head starts at its warm start (`wheels.agents.regression.warm_start`), which stays as the reference of the trust
    region. Values come from a target network that follows by Polyak averaging.

    Args:
        head: The warm start; it is trained in place.
        settings: How.
        price: Nats per teacher token.
    """

    def __init__(self, head: DeferralHead, settings: PCLSettings, price: float = 2.0) -> None:
        self.settings = settings
        self.reference = head.frozen_copy()
        self.target = head.frozen_copy()
        self.head = head.requires_grad_(True).train()
        self.fixed_price = price
        self.optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=0.0)

    def price(self, budget_B: torch.Tensor) -> torch.Tensor:
        """Return the price of each budget, nats per teacher token."""
        return torch.full_like(budget_B, self.fixed_price)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the trained parameters."""
        return list(self.head.parameters())

    def predict(self, features_BF: torch.Tensor, budget_B: torch.Tensor) -> torch.Tensor:
        """Compute the probability of a call, `g = sigmoid((gain - price) / alpha)`, `[B]`."""
        with torch.no_grad():
            output: HeadOutput = self.head(features_BF, budget_B)
            return torch.sigmoid(output.call_logit(self.price(budget_B), self.settings.alpha))

    def learn(
        self,
        batch: EpisodeBatch,
        *,
        critic_only: bool = False,
        share: Share | None = None,
        step: str = "this step",
    ) -> dict[str, float]:
        """Take one gradient step and return what was measured.

        Args:
            batch: Episodes, on-policy and off-policy.
            critic_only: Fit values alone; the gate is frozen. Values must come first: a gate that follows random
                ones loses its warm start.
            share: Averages the gradients of the given parameters over processes.
            step: Names the step, in errors.

        Raises:
            WheelsError: where the loss or the norm of its gradient is no finite number: no weight is changed by it.
        """
        loss, figures = self.loss(batch, critic_only=critic_only)
        self.optimizer.zero_grad()
        loss.backward()
        if share is not None:
            share(iter(self.parameters()))
        figures["gradient_norm"] = float(torch.nn.utils.clip_grad_norm_(self.parameters(), self.settings.gradient_norm))
        check_finite(step, figures)
        self.optimizer.step()
        self._follow()
        return figures

    def loss(self, batch: EpisodeBatch, *, critic_only: bool = False) -> tuple[torch.Tensor, dict[str, float]]:
        """Compute the loss of a batch.

        Path consistency along the path (values, and by `path` the gate); the difference of both actions' residuals at
        each state (the gate); the trust region; the errors of the next values and of the cost-to-go.
        """
        settings, mask_BT = self.settings, batch.mask_BT
        budget_BT = batch.budget_B[:, None].expand(mask_BT.shape)
        price_BT = self.price(budget_BT)
        output: HeadOutput = self.head(batch.features_BTF, budget_BT)
        logit_BT = output.call_logit(price_BT, settings.alpha)
        with torch.no_grad():
            ahead: HeadOutput = self.target(batch.features_BTF, budget_BT)
            final: HeadOutput = self.target(batch.final_features_BF, batch.budget_B)
            start: HeadOutput = self.reference(batch.features_BTF, budget_BT)
        end_B = bootstrap(final.value_B, batch.terminated_B)
        next_BT = next_values(ahead.value_B, end_B, mask_BT)
        path_logit_BT = logit_BT.detach().lerp(logit_BT, 0.0 if critic_only else settings.path)
        u_t = self._rewards(batch, path_logit_BT, price_BT)
        single_BT = single_step_residuals(output.value_B, next_BT, u_t, settings.gamma, mask_BT)
        suffix_BT = suffix_residuals(output.value_B, u_t, end_B, settings.gamma, mask_BT)
        parts = {
            "consistency": pcl_loss(
                single_BT, suffix_BT, mask_BT, suffix_weight=settings.suffix_weight, clip=settings.clip
            ),
            "gate": self._gate_loss(batch, logit_BT.detach() if critic_only else logit_BT, ahead, price_BT),
            "divergence": masked_mean(trust_region(logit_BT, start.call_logit(price_BT, settings.alpha)), mask_BT),
            "next_error": _next_error(batch, output, next_BT),
            "cost_error": _cost_error(batch, output, ahead, final),
        }
        weights = {"divergence": 0.0 if critic_only else settings.trust, "cost_error": settings.cost_weight}
        loss = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        figures = {"loss": float(loss.detach()), **{name: float(part.detach()) for name, part in parts.items()}}
        figures["single_residual"] = float(masked_mean(single_BT.detach().abs(), mask_BT))
        figures["suffix_residual"] = float(masked_mean(suffix_BT.detach().abs(), mask_BT))
        return loss, figures

    def _gate_loss(
        self, batch: EpisodeBatch, logit_BT: torch.Tensor, ahead: HeadOutput, price_BT: torch.Tensor
    ) -> torch.Tensor:
        """Compute the mean of `(C_call - C_write)^2 / 2 = (gain* - alpha z)^2 / 2`: the variance-reduced gate loss.

        Both actions' immediate rewards are known at every state; V(s_t) cancels; the next values are learned for both.
        """
        settings = self.settings
        residual = both_action_residuals(
            ahead.value_B,
            logit_BT,
            -self._regret(batch),
            -price_BT * batch.cost_BT,
            ahead.after_write_B,
            ahead.after_call_B,
            settings.gamma,
            settings.alpha,
            batch.mask_BT,
        )
        return masked_mean((residual.call - residual.write).square() / 2, batch.mask_BT)

    def _regret(self, batch: EpisodeBatch) -> torch.Tensor:
        """Return the regrets, clipped at `regret_clip`."""
        return batch.regret_BT.clamp(max=self.settings.regret_clip)

    def _rewards(self, batch: EpisodeBatch, logit_BT: torch.Tensor, price_BT: torch.Tensor) -> torch.Tensor:
        """Compute `u_t`: minus the regret of a written token, minus the price of a call, and the gate's entropy."""
        alpha = self.settings.alpha
        log_write_BT, log_call_BT = gate_log_probs(logit_BT)
        write_BT = regret_reward(self._regret(batch), log_write_BT, alpha)
        call_BT = call_reward(price_BT, batch.cost_BT, log_call_BT, alpha)
        u_t = torch.where(batch.call_BT, call_BT, write_BT)
        return add_terminal(u_t, batch.terminal_reward_B, batch.mask_BT)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the target network a step towards the head (Polyak averaging)."""
        for target, own in zip(self.target.parameters(), self.head.parameters(), strict=True):
            target.lerp_(own, self.settings.target_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to continue to the same bits."""
        return {
            "head": self.head.state_dict(),
            "target": self.target.state_dict(),
            "reference": self.reference.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for name in ("head", "target", "reference", "optimizer"):
            getattr(self, name).load_state_dict(state[name])

    def save(self, folder: Path | str) -> None:
        """Write the head and its prices to a folder, for `load`."""
        folder = Path(folder)
        tensors = {name: value.contiguous() for name, value in self.head.state_dict().items()}
        write_bytes(folder / "head.safetensors", save_tensors(tensors))
        content = {"head": asdict(self.head.config), "settings": vars(self.settings), **self._prices()}
        write_json(folder / "agent.json", content)

    @classmethod
    def load(cls, folder: Path | str) -> PCLAgent:
        """Read what `save` wrote; the head that was saved is the new warm start.

        Raises:
            WheelsError: where the folder holds no agent of this kind.
        """
        content = read_object(Path(folder) / "agent.json", "head", "settings")
        try:
            head = DeferralHead(HeadConfig(**content["head"]))
            head.load_state_dict(load_tensors((Path(folder) / "head.safetensors").read_bytes()))
            settings = PCLSettings(**content["settings"])
        except Exception as error:
            raise WheelsError(f"{folder} holds no agent that can be read ({first_line(error)}); train again") from error
        check_weights(head, f"the head in {folder}", "train again")
        return cls._restored(head, settings, content)

    def _prices(self) -> dict[str, Any]:
        return {"price": self.fixed_price}

    @classmethod
    def _restored(cls, head: DeferralHead, settings: PCLSettings, content: Mapping[str, Any]) -> PCLAgent:
        if "price" not in content:
            raise WheelsError("this folder holds an agent with a price for each budget; load it as LagrangianAgent")
        return cls(head, settings, content["price"])


class LagrangianAgent(PCLAgent):
    """The same under budgets: `max J subject to E[teacher tokens] <= b E[tokens]`, a price for each budget of a grid.

    One head serves all budgets: its inputs include the budget. Prices follow the measured use (`agents.rl.lagrangian`).

    Args:
        head: The warm start; it is trained in place.
        settings: How.
        table: The grid and its first prices.
    """

    def __init__(self, head: DeferralHead, settings: PCLSettings, table: PriceTable) -> None:
        super().__init__(head, settings)
        self.table = table

    def price(self, budget_B: torch.Tensor) -> torch.Tensor:
        """Return the price of each budget, nats per teacher token."""
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

    def _prices(self) -> dict[str, Any]:
        return {"table": self.table.state_dict()}

    @classmethod
    def _restored(cls, head: DeferralHead, settings: PCLSettings, content: Mapping[str, Any]) -> LagrangianAgent:
        if "table" not in content:
            raise WheelsError("this folder holds an agent with one price; load it as PCLAgent")
        table = PriceTable(content["table"]["budgets"])
        table.load_state_dict(content["table"])
        return cls(head, settings, table)


def _next_error(batch: EpisodeBatch, output: HeadOutput, next_BT: torch.Tensor) -> torch.Tensor:
    """Compute the squared error of the predicted next value of the taken action."""
    predicted_BT = torch.where(batch.call_BT, output.after_call_B, output.after_write_B)
    return masked_mean((predicted_BT - next_BT).square() / 2, batch.mask_BT)


def _cost_error(batch: EpisodeBatch, output: HeadOutput, ahead: HeadOutput, final: HeadOutput) -> torch.Tensor:
    """Compute the squared error of the cost-to-go: `V_C(s_t) = cost_t + V_C(s_{t+1})`."""
    mask_BT = batch.mask_BT
    end_B = bootstrap(final.cost_B, batch.terminated_B)
    following_BT = next_values(ahead.cost_B, end_B, mask_BT)
    residual_BT = single_step_residuals(output.cost_B, following_BT, batch.call_BT * batch.cost_BT, 1.0, mask_BT)
    return masked_mean(residual_BT.square() / 2, mask_BT)


def starting_prices(
    head: DeferralHead, budgets: tuple[float, ...], alpha: float, features_NF: torch.Tensor
) -> PriceTable:
    """Return the prices at which a warm start meets each budget on the given states.

    Solves `mean sigmoid((gain - price) / alpha) = budget` for each budget, by bisection.
    """
    with torch.no_grad():
        gain_N = head.gain(features_NF, torch.zeros(len(features_NF)))
    gains = Gains()
    return PriceTable(budgets, gains, [price_for(gain_N, budget, alpha, gains.price_max) for budget in budgets])


def price_for(gain_N: torch.Tensor, budget: float, alpha: float, price_max: float) -> float:
    """Solve `mean sigmoid((gain - price) / alpha) = budget` for the price, in [0, price_max], by bisection."""
    low, high = 0.0, price_max
    for _ in range(50):
        middle = (low + high) / 2
        use = float(torch.sigmoid((gain_N - middle) / alpha).mean())
        low, high = (middle, high) if use > budget else (low, middle)
    return (low + high) / 2
