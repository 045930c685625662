"""The warm start: a regression of the expected regret. It is also a rule, `regret`.

`gain(s) ~ E[min(regret, clip) | s]` in squared error: what a call saves in nats, on average over what the features do
not tell. It is the fixed point of path consistency at gamma = 0 (`wheels.agents.gate`). The same network is fitted to
other targets for the rules `gate` and `router`, which it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from wheels.agents.regression.fit import FitConfig, Progress, fit
from wheels.policy.head import DeferralHead, HeadConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Predictions and targets `[N]` to a mean loss."""


@dataclass(frozen=True)
class WarmStart(FitConfig):
    """The settings of the fit of a head, and its size."""

    width: int = 256
    vocab_size: int = 0
    """Of the candidates' tokens in the features; 0: the features are numbers alone."""

    def head(self, features: int) -> HeadConfig:
        """Return the shape of the head for states of `features` entries."""
        if self.vocab_size:
            return HeadConfig.of(features, self.vocab_size, self.width)
        return HeadConfig(features, self.width)


def fit_regret(
    features_NF: torch.Tensor, regret_N: torch.Tensor, settings: WarmStart, progress: Progress | None = None
) -> DeferralHead:
    """Return a head whose gain is the regressed regret.

    Args:
        features_NF: States, float32.
        regret_N: What is predicted, nats, already clipped.
        settings: Of the fit.
        progress: Called with the loss of each step.
    """
    return _fit(features_NF, regret_N, float(regret_N.mean()), _squared, settings, progress, "warm start")


def fit_gate(
    features_NF: torch.Tensor, regret_N: torch.Tensor, settings: WarmStart, progress: Progress | None = None
) -> DeferralHead:
    """Return a head whose gain is the logit of `P(regret > 0 | s)`: that the student's best token is not the teacher's.

    The supervised gate: logistic regression (binary cross-entropy) on labels made by comparing both models, as the
    router of CITER learns which tokens are critical (Zheng et al. 2025, arXiv 2502.01976) and as Co-LLM starts its own
    (Shen et al. 2024, arXiv 2403.03870). Left out: CITER's preferences over whole continuations, and Co-LLM's marginal
    likelihood.

    Args:
        features_NF: States, float32.
        regret_N: The student's regret there, nats.
        settings: Of the fit.
        progress: Called with the loss of each step.
    """
    wrong_N = (regret_N > 0).float()
    start = float(wrong_N.mean().clamp(1e-4, 1 - 1e-4).logit())
    loss = functional.binary_cross_entropy_with_logits
    return _fit(features_NF, wrong_N, start, loss, settings, progress, "gate")


def fit_router(
    features_NF: torch.Tensor, gain_N: torch.Tensor, settings: WarmStart, progress: Progress | None = None
) -> DeferralHead:
    """Return a head whose gain is `E[metric(teacher's text) - metric(student's text) | first state]`, in points.

    The router of RouteLMT (Luo et al. 2026, arXiv 2604.22520), in squared error. It is fitted in units of the gain's
    deviation, for which the learning rate is made, and scaled back.

    Args:
        features_NF: The student's state before anything is written, float32.
        gain_N: What the teacher's own text scores above the student's, in points of a sentence metric.
        settings: Of the fit.
        progress: Called with the loss of each step.
    """
    scale = gain_N.std(unbiased=False).clamp(min=1e-6)
    target_N = gain_N / scale
    head = _fit(features_NF, target_N, float(target_N.mean()), _squared, settings, progress, "router")
    with torch.no_grad():
        for parameter in head.base.parameters():
            parameter.mul_(scale)
    return head


def _squared(gain_N: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    return (gain_N - target_N).square().mean()


def _fit(
    features_NF: torch.Tensor,
    target_N: torch.Tensor,
    start: float,
    loss_of: Loss,
    settings: WarmStart,
    progress: Progress | None,
    name: str,
) -> DeferralHead:
    """Fit a new head's trunk and base to a target; `start` is its initial output."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        head = DeferralHead(settings.head(features_NF.shape[1]))
    head.standardise(features_NF)
    with torch.no_grad():
        head.base.bias.fill_(start)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return loss_of(head.gain(features_NF[batch], torch.zeros(len(batch))), target_N[batch])

    fit(head.regressed(), loss, len(target_N), settings, progress, name=name)
    return head.eval()


def explained(head: DeferralHead, features_NF: torch.Tensor, regret_N: torch.Tensor) -> float:
    """Compute the explained variance of the head's gain, at most 1."""
    with torch.no_grad():
        error = head.gain(features_NF, torch.zeros(len(regret_N))) - regret_N
    return 1.0 - float(error.square().mean() / regret_N.var(unbiased=False).clamp(min=1e-12))
