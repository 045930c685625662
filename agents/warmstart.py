"""The warm start: a regression of the expected regret, which is also a rule of its own, `regret`.

`gain(s) ~ E[min(regret, clip) | s]` in squared error: what a call saves in nats, on average over what the features do
not tell. It is the fixed point of path consistency at gamma = 0 (`wheels.agents.pcl`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from wheels.policy import DeferralHead, HeadConfig

BATCH = 1024
"""States in a gradient step."""


@dataclass(frozen=True)
class WarmStart:
    """How the regression is fitted."""

    width: int = 256
    epochs: int = 6
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0
    vocab_size: int = 0
    """Of the candidates' tokens in the features; 0: the features are numbers alone."""

    def head(self, features: int) -> HeadConfig:
        """Return the shape of the head for states of `features` entries."""
        if self.vocab_size:
            return HeadConfig.of(features, self.vocab_size, self.width)
        return HeadConfig(features, self.width)


def fit_regret(
    features_NF: torch.Tensor,
    regret_N: torch.Tensor,
    settings: WarmStart,
    progress: Callable[[float], None] | None = None,
) -> DeferralHead:
    """Return a head whose gain is the regressed regret.

    Args:
        features_NF: States, float32.
        regret_N: What is predicted, nats, already clipped.
        settings: Of the fit.
        progress: Called with the loss of each step.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        head = DeferralHead(settings.head(features_NF.shape[1]))
    head.standardise(features_NF)
    with torch.no_grad():
        head.base.bias.fill_(regret_N.mean())
    optimizer = torch.optim.AdamW(head.regressed(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * -(-len(regret_N) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps, pct_start=0.05)
    for _ in range(settings.epochs):
        order = torch.randperm(len(regret_N), generator=generator)
        for batch in order.split(BATCH):
            gain_N = head(features_NF[batch], torch.zeros(len(batch))).gain_B
            loss = (gain_N - regret_N[batch]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(loss.item())
    return head.eval()


def explained(head: DeferralHead, features_NF: torch.Tensor, regret_N: torch.Tensor) -> float:
    """Compute the share of the regret's variance that the head's gain explains, at most 1."""
    with torch.no_grad():
        error = head(features_NF, torch.zeros(len(regret_N))).gain_B - regret_N
    return 1.0 - float(error.square().mean() / regret_N.var(unbiased=False).clamp(min=1e-12))
