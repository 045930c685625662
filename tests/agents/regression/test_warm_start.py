"""Heads that are fitted to other targets than the regret: the supervised gate and the router of whole texts."""

from __future__ import annotations

import pytest
import torch

from wheels.agents.regression.warm_start import WarmStart, explained, fit_gate, fit_regret, fit_router
from wheels.policy.head import DeferralHead, HeadConfig

WIDTH = 4
SETTINGS = WarmStart(width=16, epochs=8, learning_rate=1e-2, batch=128)


def states(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def gain_of(head: torch.nn.Module, features_NF: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return head.gain(features_NF, torch.zeros(len(features_NF)))


def wrong_probability(features_NF: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(2.0 * features_NF[:, 0] - 1.0)


def sized_regret(features_NF: torch.Tensor) -> torch.Tensor:
    """Regret is above 0 with a probability that feature 0 tells; how large it is feature 1 tells."""
    draws_N = torch.rand(len(features_NF), generator=torch.Generator().manual_seed(5))
    return (draws_N < wrong_probability(features_NF)) * (3.0 * features_NF[:, 1]).exp()


@pytest.mark.slow
def test_the_gate_finds_the_logit_whatever_the_size_of_the_regret() -> None:
    features_NF, seen_NF = states(8000), states(500, seed=1)
    regret_N = sized_regret(features_NF).clamp(max=6.0)
    says_N = torch.sigmoid(gain_of(fit_gate(features_NF, regret_N, SETTINGS), seen_NF))
    known_N = wrong_probability(seen_NF)
    assert float((says_N - known_N).abs().mean()) < 0.05
    sized_N = gain_of(fit_regret(features_NF, regret_N, SETTINGS), seen_NF)
    assert float(torch.corrcoef(torch.stack([sized_N, seen_NF[:, 1]]))[0, 1]) > 0.4
    assert abs(float(torch.corrcoef(torch.stack([says_N, seen_NF[:, 1]]))[0, 1])) < 0.15


@pytest.mark.parametrize(("regret", "sign"), [(0.0, -1), (2.0, 1)])
def test_a_gate_of_one_label_only_is_finite(regret: float, sign: int) -> None:
    gain_N = gain_of(fit_gate(states(50), torch.full((50,), regret), SETTINGS), states(5))
    assert (gain_N.isfinite() & (sign * gain_N > 4)).all()


@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_the_router_says_points_of_any_size(scale: float) -> None:
    features_NF, seen_NF = states(3000), states(500, seed=1)
    head = fit_router(features_NF, scale * (features_NF[:, 0] + 2.0), SETTINGS)
    assert explained(head, seen_NF, scale * (seen_NF[:, 0] + 2.0)) > 0.9
    assert explained(head, seen_NF, seen_NF[:, 0] + 2.0) < 0.5, "not in other units"


def constant_head(gain: float) -> DeferralHead:
    head = DeferralHead(HeadConfig(WIDTH, 8))
    torch.nn.init.zeros_(head.base.weight)
    torch.nn.init.constant_(head.base.bias, gain)
    return head


@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_the_explained_variance_by_hand(unit: float) -> None:
    """Of 1, 2, 3, 4 (variance 5/4): their mean explains nothing; 3 is off by 1/2 more, 1 - (5/4 + 1/4) / (5/4)."""
    regret_N = unit * torch.tensor([1.0, 2.0, 3.0, 4.0])
    for gain, share in ((2.5, 0.0), (3.0, -0.2), (2.0, -0.2)):
        assert explained(constant_head(unit * gain), states(4), regret_N) == pytest.approx(share, abs=1e-5)
    assert explained(constant_head(unit), states(4), torch.full((4,), unit)) == 1.0, "nothing is left"


def test_a_router_of_texts_that_all_gain_alike_says_so() -> None:
    head = fit_router(states(20), torch.full((20,), 3.0), SETTINGS)
    assert gain_of(head, states(5)).tolist() == pytest.approx([3.0] * 5, rel=0.2)
