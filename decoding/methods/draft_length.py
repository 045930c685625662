"""Draft length: the K with the most tokens a second, for an acceptance rate and measured costs."""

from __future__ import annotations

import functools
from collections import abc

from wheels.decoding.methods.method import Method
from wheels.decoding.sequences import Sequence

PRIOR_ACCEPTED, PRIOR_DRAFTED = 3.0, 5.0
"""What a row is taken to have seen before it starts: an acceptance of 0.6, soon overruled."""


def expected_tokens(acceptance: float, draft: int) -> float:
    """Compute the tokens that a teacher pass yields: `(1 - a^(K + 1)) / (1 - a)` (Leviathan et al. 2023, eq. 1)."""
    if acceptance >= 1:
        return draft + 1.0
    return (1.0 - acceptance ** (draft + 1)) / (1.0 - acceptance)


def estimated_acceptance(accepted: int, checked: int) -> float:
    """Estimate a row's acceptance from the tokens that were checked; those after a rejection were not."""
    return (accepted + PRIOR_ACCEPTED) / (checked + PRIOR_DRAFTED)


@functools.lru_cache(maxsize=4096)
def best_length(acceptance: float, student: float, teacher: tuple[float, ...]) -> int:
    """Return the K >= 1 with the most tokens a second: `E(K) / (K t_q + t_p(K + 1))`, the smallest of equals.

    Never 0: a row that drafted nothing would not learn that its acceptance has risen.

    Args:
        acceptance: The probability that a draft token is accepted.
        student: Seconds of a student step, t_q.
        teacher: Seconds of a teacher pass over 1, 2, ... tokens, t_p; drafts are at most one shorter than it is long.
    """
    rates = [expected_tokens(acceptance, draft) / (draft * student + seconds) for draft, seconds in enumerate(teacher)]
    return rates.index(max(rates[1:]), 1)


def next_length(method: Method, sequence: Sequence, costs: tuple[float, tuple[float, ...]] | None) -> int | None:
    """Return K of a text's next draft: as the method says, or the best by its acceptance; None: no limit.

    Args:
        method: How texts are decoded.
        sequence: The text; until a draft of it was verified, the method decides.
        costs: Seconds of a student step, and of teacher passes over 1, 2, ... tokens; None: K is not adapted.
    """
    if costs is None or not sequence.checked:
        return method.draft
    student, teacher = costs
    # In steps of 0.05, so that few lengths are ever computed.
    acceptance = round(estimated_acceptance(sequence.accepted, sequence.checked) * 20) / 20
    return best_length(acceptance, 0.0 if method.lookup else student, teacher)


def line(points: abc.Sequence[tuple[int, float]], length: int) -> tuple[float, ...]:
    """Return `t(1), ..., t(length)` on the line through the first and the last measured point."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
    return tuple(max(y0 + slope * (x - x0), 1e-9) for x in range(1, length + 1))
