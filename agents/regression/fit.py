"""Supervised fitting on a fixed set of examples: the training loop of every head but the agent's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wheels.finite import check_finite

Progress = Callable[[float], None]
"""Called with the loss of each step."""


@dataclass(frozen=True)
class FitConfig:
    """AdamW with a OneCycle learning rate and batches in a seeded order."""

    epochs: int = 6
    batch: int = 1024
    """Examples in a gradient step."""
    learning_rate: float = 1e-3
    """The highest one."""
    weight_decay: float = 0.01
    seed: int = 0
    rise: float = 0.05
    """Share of the steps in which the learning rate rises."""


def fit(
    parameters: Sequence[torch.nn.Parameter],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    count: int,
    settings: FitConfig,
    progress: Progress | None = None,
    *,
    name: str = "fit",
    set_rates: Callable[[torch.optim.Optimizer], None] | None = None,
) -> None:
    """Fit `parameters` in place.

    Args:
        parameters: What is fitted.
        loss_of: The mean loss of some examples, by their places among all `[N]`, int64.
        count: All examples.
        settings: Of the descent.
        progress: Called with the loss of each step.
        name: Of what is fitted, in errors.
        set_rates: Gives weights a learning rate of their own, in groups of their own.

    Raises:
        WheelsError: where the loss, or what it leads to, is no finite number: names the step.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    if set_rates is not None:
        set_rates(optimizer)
    steps, highest = settings.epochs * -(-count // settings.batch), [group["lr"] for group in optimizer.param_groups]
    # A rise of exactly one step is divided by zero in torch.
    rise = settings.rise if settings.rise * steps != 1.0 else 1.5 / steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=steps, pct_start=rise)
    step = 0
    for _ in range(settings.epochs):
        for batch in torch.randperm(count, generator=generator).split(settings.batch):
            step += 1
            loss = loss_of(batch)
            check_finite(f"step {step} of the {name}", {"loss": loss.item()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(loss.item())
    sums = {"sum of the weights": sum(float(parameter.detach().abs().sum()) for parameter in parameters)}
    check_finite(f"step {step} of the {name}", sums)
