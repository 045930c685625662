"""What a span gains beyond one token, regressed on forks: the texts after a span, and after one call.

The residuals of both actions at one state differ, as those of a call and of writing do (`wheels.agents.rl.agent`), by

    more*(s) = (R_span - R_call) / kappa - price * (N_span - N_call - b (T_span - T_call)) + alpha (H_span - H_call)

where N counts the calls that follow: what the span's own tokens cost is weighed when it is chosen, at the prices of
then (`wheels.decoding.remote.auto`).
"""

from __future__ import annotations

import torch

from wheels.agents.regression.fit import FitConfig, fit
from wheels.agents.rl.paths import Forks
from wheels.policy.span_head import SpanHead

HELD = 10
"""One text in so many is not fitted: the figures are of these."""
FIT = FitConfig(epochs=16, batch=512, learning_rate=3e-3, weight_decay=1.0, rise=0.1)


def span_targets(forks: Forks, price_N: torch.Tensor, alpha: float, kappa: float) -> torch.Tensor:
    """Compute `more*` of each span, nats, and the tokens that it wrote, `[N, 2 K]`; arguments as `fork_residuals`."""
    excess_NK = forks.span_calls_NK - forks.budget_N[:, None] * forks.span_tokens_NK
    more_NK = forks.span_reward_NK / kappa - price_N[:, None] * excess_NK + alpha * forks.span_entropy_NK
    return torch.cat([more_NK, forks.span_written_NK], -1)


def fit_spans(
    spans: tuple[int, ...], forks: Forks, target_NY: torch.Tensor, seed: int
) -> tuple[SpanHead, dict[str, float]]:
    """Return a head that foretells the targets of forks, and how much it explains of those that it did not see.

    Args:
        spans: Tokens that the spans have.
        forks: Texts of a policy and their forks, in order.
        target_NY: Theirs (`span_targets`).
        seed: Of its first weights, and of the order of forks.
    """
    held_N = torch.arange(len(forks)) >= len(forks) - len(forks) // HELD  # whole texts, but for one
    fitted, target = forks[~held_N], target_NY[~held_N]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = SpanHead(spans)
    head.standardise(fitted.features_NF, target)

    def loss(some: torch.Tensor) -> torch.Tensor:
        error = head(fitted.features_NF[some], fitted.budget_N[some]) - target[some]
        return (error / head.unit_Y).square().mean()

    fit(list(head.parameters()), loss, len(target), FIT, name="spans")
    head.requires_grad_(False).eval()
    error_NY = head(forks.features_NF[held_N], forks.budget_N[held_N]) - target_NY[held_N]
    share_Y = 1.0 - error_NY.square().mean(0) / target_NY[held_N].var(0).clamp(min=1e-6)
    shares = {f"held_out_r2_{size}": share for size, share in zip(spans, share_Y.tolist(), strict=False)}
    means = {f"more_{size}": mean for size, mean in zip(spans, target_NY.mean(0).tolist(), strict=False)}
    return head, shares | means
