"""The features of a state for the deferral head: one definition for training, the environment and decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from wheels.policy.copy_features import NAMES, copy_features

TOP_K = 8
"""Log-probabilities of the student's best tokens that are handed over."""
CANDIDATES = 4
"""The student's best tokens whose identity is handed over."""

SCALARS = (
    "entropy",
    "top_probability",
    "margin",
    "log_position",
    *(f"log_q_{rank}" for rank in range(1, TOP_K + 1)),
    "log_source_length",
    "progress",
    *NAMES,
)
"""The features that follow the hidden state, in order."""

LOG_FLOOR = -20.0
"""Log-probabilities are floored here, in nats: below lies only rounding."""


def entropy(log_q_BV: torch.Tensor) -> torch.Tensor:
    """Compute `H = -sum_v q(v) log q(v)` in nats, `[B]`."""
    return -(log_q_BV.exp() * log_q_BV.clamp(min=-100.0)).sum(-1)


CopyFeatures = Callable[[torch.Tensor], torch.Tensor]
"""From the best tokens `[B, CANDIDATES]` to their `wheels.policy.copy_features` `[B, len(NAMES)]`."""


def features(
    hidden_BD: torch.Tensor,
    log_q_BV: torch.Tensor,
    position_B: torch.Tensor,
    source_B: torch.Tensor,
    places: CopyFeatures,
) -> torch.Tensor:
    """Compute the features of B states.

    Args:
        hidden_BD: What the student's output head read.
        log_q_BV: The student's log-probabilities of the next token, in nats.
        position_B: Tokens generated so far.
        source_B: Tokens of the source (the prompt, of causal models), at least 1.
        places: Where the texts are in their sources, and where the best tokens would take them.

    Returns:
        `[B, D + len(SCALARS) + CANDIDATES]`, float32: the hidden state; then entropy (nats), top probability, margin
        between the two best probabilities, `log(1 + position)`, the `TOP_K` best log-probabilities, floored at
        `LOG_FLOOR`, `log(source)` and `position / source`, and the numbers of `wheels.policy.copy_features`; then the
        `CANDIDATES` best tokens, as numbers of the vocabulary (0 where there are fewer).
    """
    best = log_q_BV.topk(min(TOP_K, log_q_BV.shape[-1]), dim=-1)
    short = TOP_K - best.values.shape[-1]
    best_BK = torch.nn.functional.pad(best.values, (0, short), value=LOG_FLOOR).clamp(min=LOG_FLOOR)
    token_BK = torch.nn.functional.pad(best.indices, (0, short))[:, :CANDIDATES]
    first_B, second_B = best_BK[:, 0].exp(), best_BK[:, 1].exp()
    position_B, source_B = position_B.float(), source_B.float()
    scalars = torch.stack([entropy(log_q_BV), first_B, first_B - second_B, torch.log1p(position_B)], dim=-1)
    lengths = torch.stack([source_B.log(), position_B / source_B], dim=-1)
    # Numbers of tokens are exact in float32 up to 2^24.
    return torch.cat([hidden_BD.float(), scalars, best_BK, lengths, places(token_BK), token_BK], dim=-1).float()


def text_copy_features(source: Sequence[int], tokens: Sequence[int]) -> CopyFeatures:
    """Return the copy features of a finished text's states: state t is the one before token t."""

    def places(token_TK: torch.Tensor) -> torch.Tensor:
        return torch.tensor(copy_features(source, tokens, token_TK.tolist()), device=token_TK.device)

    return places


def scalar(features_BF: torch.Tensor, name: str) -> torch.Tensor:
    """Return one of `SCALARS` from the features."""
    return features_BF[..., SCALARS.index(name) - len(SCALARS) - CANDIDATES]


def feature_width(hidden_width: int) -> int:
    """Return the number of features for a student whose hidden state has `hidden_width` entries."""
    return hidden_width + len(SCALARS) + CANDIDATES
