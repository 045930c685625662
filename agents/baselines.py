"""Simple rules behind the agents' four verbs: what an agent must beat, learned from the same episodes.

`learn` takes, for each budget of a grid, the quantile of the rule's score over the states that it is shown; `predict`
answers 1 where the score exceeds it. In decoding the same scores stand in `wheels.decoding.methods.rules`, with
thresholds calibrated by decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

import torch

from wheels.agents.rl.episode import EpisodeBatch
from wheels.agents.runlog import reading
from wheels.errors import WheelsError, check_choice
from wheels.files import read_object, write_json
from wheels.policy.features import scalar

Score = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


class Agent(Protocol):
    """What an agent does."""

    def learn(self, batch: EpisodeBatch) -> dict[str, float]:
        """Improve on a batch of episodes and return what was measured."""
        ...

    def predict(self, features_BF: torch.Tensor, budget_B: torch.Tensor) -> torch.Tensor:
        """Return the probability of a call, `[B]`."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write all that `load` needs."""
        ...

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote."""
        ...


def _scalar(name: str, sign: float) -> Score:
    """Return a score that is one of the features' scalars."""
    return lambda features_BF, regret_B: sign * scalar(features_BF, name)


def _regret(features_BF: torch.Tensor, regret_B: torch.Tensor | None) -> torch.Tensor:
    if regret_B is None:
        raise WheelsError("the oracle needs the true regret of each state; give regret_B")
    return regret_B


def _lots(features_BF: torch.Tensor, regret_B: torch.Tensor | None) -> torch.Tensor:
    return torch.zeros(features_BF.shape[:-1])


SCORES: dict[str, Score] = {
    "random": _lots,
    "maxprob": _scalar("top_probability", -1.0),
    "entropy": _scalar("entropy", 1.0),
    "margin": _scalar("margin", -1.0),
    "oracle": _regret,
}
"""Scores by name; higher where a call is worth more. Random's decision is in `predict`: it is the budget itself."""


class Baseline:
    """A rule that nothing but thresholds is learned for.

    Args:
        name: One of `SCORES`.
        budgets: The grid of budgets, shares in (0, 1), rising.

    Raises:
        WheelsError: for an unknown name.
    """

    def __init__(self, name: str, budgets: Sequence[float]) -> None:
        self.name = check_choice("baseline", name, SCORES)
        self.budgets = list(budgets)
        self.thresholds = [float("inf")] * len(self.budgets)

    def learn(self, batch: EpisodeBatch) -> dict[str, float]:
        """Take the thresholds from the states of a batch; returns them by budget."""
        score_N = SCORES[self.name](batch.features_BTF, batch.regret_BT)[batch.mask_BT]
        self.thresholds = [float(score_N.quantile(1.0 - budget)) for budget in self.budgets]
        return {f"threshold_{budget:g}": value for budget, value in zip(self.budgets, self.thresholds, strict=True)}

    def predict(
        self, features_BF: torch.Tensor, budget_B: torch.Tensor, regret_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the probability of a call, `[B]`: 0 or 1, and the budget itself for `random`.

        Args:
            features_BF: States.
            budget_B: Budgets of the grid (the nearest one is taken).
            regret_B: The true regrets, for `oracle` only.
        """
        if self.name == "random":
            return budget_B
        grid, threshold = torch.tensor(self.budgets), torch.tensor(self.thresholds)
        nearest_B = (budget_B[..., None] - grid).abs().argmin(-1)
        return (SCORES[self.name](features_BF, regret_B) > threshold[nearest_B]).float()

    def save(self, folder: Path | str) -> None:
        """Write name, grid and thresholds."""
        content = {"baseline": self.name, "budgets": self.budgets, "thresholds": self.thresholds}
        write_json(Path(folder) / "agent.json", content)

    @classmethod
    def load(cls, folder: Path | str) -> Baseline:
        """Read what `save` wrote.

        Raises:
            WheelsError: where the folder holds another agent.
        """
        content = read_object(Path(folder) / "agent.json")
        if "baseline" not in content:
            raise WheelsError(f"{folder} holds no baseline; load it as PCLAgent or LagrangianAgent")
        with reading(Path(folder), "save the baseline again"):
            baseline = cls(content["baseline"], content["budgets"])
            baseline.thresholds = [float(value) for value in content["thresholds"]]
        return baseline
