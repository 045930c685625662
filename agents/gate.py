"""The gate of a student that may call its teacher: `pi(CALL|s) = g`, `pi(WRITE|s) = 1 - g`, `g = sigmoid(z)`."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def gate_log_probs(call_logit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `(log(1 - g), log g)`: the log-probabilities of writing and of calling, nats.

    Args:
        call_logit: z, any shape. Finite at both ends: at z = 200 they are -200 and 0.
    """
    return F.logsigmoid(-call_logit), F.logsigmoid(call_logit)


def gate_entropy(call_logit: torch.Tensor) -> torch.Tensor:
    """Compute `-g log g - (1 - g) log(1 - g)`, nats, in the shape of `call_logit`."""
    log_write, log_call = gate_log_probs(call_logit)
    return -(log_call.exp() * log_call + log_write.exp() * log_write)
