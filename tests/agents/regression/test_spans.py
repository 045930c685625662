"""What spans gain: the target in numbers, and a fit that finds what was put into noisy forks."""

import pytest
import torch

from wheels.agents.regression.spans import fit_spans, span_targets
from wheels.agents.rl.paths import Forks
from wheels.policy.features import CANDIDATES, SCALARS

WIDTH = 3 + len(SCALARS) + CANDIDATES


def forks_of(features_NF: torch.Tensor, budget_N: torch.Tensor, **spans: torch.Tensor) -> Forks:
    nothing_N = torch.zeros(len(budget_N))
    alone = {f"{name}_N": nothing_N for name in ("length", "reward", "calls", "tokens", "entropy")}
    return Forks(features_NF=features_NF, budget_N=budget_N, **alone, **{f"span_{k}_NK": v for k, v in spans.items()})


def test_the_target_is_the_reward_less_what_later_calls_cost_and_more_by_the_entropy():
    forks = forks_of(
        torch.zeros(1, WIDTH),
        torch.tensor([0.2]),
        reward=torch.tensor([[3.0, 6.0]]),
        calls=torch.tensor([[-1.0, -2.0]]),
        tokens=torch.tensor([[5.0, 0.0]]),
        entropy=torch.tensor([[0.4, 0.0]]),
        written=torch.tensor([[2.0, 3.0]]),
    )
    target_NY = span_targets(forks, torch.tensor([2.0]), alpha=0.25, kappa=1.5)
    # 3 / 1.5 - 2 (-1 - 0.2 * 5) + 0.25 * 0.4, and 6 / 1.5 - 2 (-2)
    torch.testing.assert_close(target_NY, torch.tensor([[2.0 + 4.0 + 0.1, 4.0 + 4.0, 2.0, 3.0]]))


@pytest.mark.slow
def test_what_spans_gain_is_found_in_forks_that_are_mostly_luck():
    draw = torch.Generator().manual_seed(0)
    count, place = 12_000, 3 + SCALARS.index("progress")
    features_NF = torch.rand(count, WIDTH, generator=draw)
    budget_N = torch.rand(count, generator=draw)
    left_N = 1.0 - features_NF[:, place]
    true_NK = torch.stack([left_N * (1 - budget_N), 3 * left_N * (1 - budget_N)], -1)
    luck_NK = torch.randn(count, 2, generator=draw)
    written_NK = torch.stack([1 + left_N, 1 + 3 * left_N], -1)
    zero_NK = torch.zeros(count, 2)
    forks = forks_of(
        features_NF,
        budget_N,
        reward=true_NK + luck_NK,
        calls=zero_NK,
        tokens=zero_NK,
        entropy=zero_NK,
        written=written_NK,
    )
    target_NY = span_targets(forks, torch.zeros(count), alpha=0.25, kappa=1.0)
    head, figures = fit_spans((2, 4), forks, target_NY, seed=0)
    more_NK, wrote_NK = head.expected(features_NF, budget_N)
    for found_NK, true in ((more_NK, true_NK), (wrote_NK, written_NK)):
        error_K = (found_NK - true).square().mean(0) / true.var(0)
        assert error_K.max() < 0.2, "what is left is a fifth of what differs"
    share = float(true_NK[:, 1].var() / target_NY[:, 1].var())
    assert figures["held_out_r2_4"] == pytest.approx(share, abs=0.05)
    assert figures["more_4"] == pytest.approx(0.75, abs=0.1)
