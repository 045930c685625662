"""The fitting loop, on a problem with a known answer."""

import pytest
import torch

from wheels.agents.regression.fit import FitConfig, fit


@pytest.mark.parametrize("steps", [1, 10, 19, 20, 21, 40])
def test_any_number_of_steps_moves_towards_the_mean(steps: int) -> None:
    values = torch.arange(2.0 * steps)
    weight = torch.nn.Parameter(torch.zeros(()))
    losses: list[float] = []

    def loss_of(some: torch.Tensor) -> torch.Tensor:
        return (weight - values[some]).square().mean()

    fit([weight], loss_of, len(values), FitConfig(epochs=1, batch=2, learning_rate=0.1), losses.append)
    assert len(losses) == steps
    assert 0.0 < float(weight.detach()) < float(values.mean()) + 0.1
