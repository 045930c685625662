"""Confidence grades from the likelihood of an answer, with thresholds at calibrated quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wheels.errors import WheelsError


@dataclass(frozen=True)
class ConfidenceThresholds:
    """Thresholds that turn the log-likelihood of an answer, in nats per token, into the four grades."""

    very_confident: float
    confident: float
    wrong: float
    """Below this: wrong answer; not confident from here to `confident`."""

    def grade(self, log_likelihood: float) -> int:
        """Return the grade of an answer whose log-likelihood per token is given."""
        if log_likelihood >= self.very_confident:
            return 0
        if log_likelihood >= self.confident:
            return 1
        return 2 if log_likelihood >= self.wrong else 3


def calibrate_confidence(
    right: Sequence[float], wrong: Sequence[float], quantiles: Sequence[float]
) -> ConfidenceThresholds:
    """Return the thresholds at quantiles of the likelihoods of answers that are known to be right, or wrong.

    very confident: above the quantile `quantiles[0]` of the right ones; confident: above their quantile `quantiles[1]`,
    so that with 0.1 nine right answers in ten are let through; wrong answer: below the quantile `quantiles[2]` of the
    wrong ones, or below `confident` where that is less (a wrong answer that looks right cannot be recognised).

    Args:
        right: log-likelihood per token of references of labelled rows that the assistant was not trained on.
        wrong: of the student's own answers to these rows that are wrong.
        quantiles: three shares; the first is not below the second.

    Raises:
        WheelsError: without any right answer, or for quantiles out of order.
    """
    if len(quantiles) != 3 or not 0.0 <= quantiles[1] <= quantiles[0] <= 1.0 or not 0.0 <= quantiles[2] <= 1.0:
        raise WheelsError(
            "grade_quantiles must be three shares, the first at least the second (very confident, confident, wrong), "
            f"got {','.join(f'{value:g}' for value in quantiles)}"
        )
    if not len(right):
        raise WheelsError("grades need labelled validation rows to be calibrated on, got none")
    very, confident = (float(np.quantile(right, quantile)) for quantile in quantiles[:2])
    low = float(np.quantile(wrong, quantiles[2])) if len(wrong) else confident
    return ConfidenceThresholds(very, confident, min(low, confident))
