"""Least cost of decoding: formulas that a measured time is compared with. Plain arithmetic.

N tokens, share rho of them the teacher's; `t_M(B, k)` seconds of one forward of model M over B rows and k new tokens
each (q the student, p the teacher). With B rows a pass, and no row that ever waits for another, a token costs

    student alone       t_q(B, 1) / B
    teacher alone       t_p(B, 1) / B
    deferral, grouped   t_q(B, 1) / B + rho t_p(B, 1 / rho) / B
    speculation         (K t_q(B, 1) + t_p(B, K + 1)) / (B E(a, K)),   E(a, K) = (1 - a^(K + 1)) / (1 - a)

beside what the sources cost (Leviathan et al. 2023, https://arxiv.org/abs/2211.17192, for the last).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wheels.decoding.methods.draft_length import expected_tokens

Seconds = Callable[[int], float]
"""`t_M(B, k)` of one model at one batch size, by k."""


def between(seconds: Seconds, width: float) -> float:
    """Compute `t(B, k)` for a k that need not be whole: on the line between its neighbours."""
    low = max(1, int(width))
    share = max(width - low, 0.0)
    first = seconds(low)
    return first if share == 0.0 else first + share * (seconds(low + 1) - first)


def alone(seconds: Seconds, batch: int) -> float:
    """Compute the seconds of a token that one model writes by itself: `t_M(B, 1) / B`."""
    return seconds(1) / batch


def deferral(student: Seconds, teacher: Seconds, batch: int, use: float, longest: int) -> float:
    """Compute the seconds of a token in deferral whose calls are grouped.

    Args:
        student: t_q at this batch size.
        teacher: t_p at this batch size.
        batch: B.
        use: rho, the measured share of the tokens that the teacher wrote.
        longest: The most tokens of an output: no gap is longer, however small rho is.
    """
    if use <= 0.0:
        return alone(student, batch)
    return student(1) / batch + use * between(teacher, min(1.0 / use, longest)) / batch


def speculation(student: Seconds, teacher: Seconds, batch: int, acceptance: float, draft: int) -> float:
    """Compute the seconds of a token in speculative decoding with drafts of K tokens.

    Args:
        student: t_q at this batch size.
        teacher: t_p at this batch size.
        batch: B.
        acceptance: a, the measured probability that a token of a draft stands.
        draft: K.
    """
    return (draft * student(1) + teacher(draft + 1)) / (batch * expected_tokens(acceptance, draft))


def best_speculation(student: Seconds, teacher: Seconds, batch: int, acceptance: float, longest: int) -> float:
    """Compute the least that `speculation` costs with drafts of 0 to `longest` tokens."""
    drafts = range(longest + 1)
    return min(speculation(student, teacher, batch, acceptance, draft) for draft in drafts)


def roofline(moved: float, flops: float, bandwidth: float, peak: float) -> float:
    """Compute the seconds below which no forward pass can fall: `max(bytes / bandwidth, flops / peak)`.

    Args:
        moved: Bytes that must be read once: weights, keys and values.
        flops: Operations, two for each multiplication and addition.
        bandwidth: Bytes a second.
        peak: Operations a second.
    """
    return max(moved / bandwidth, flops / peak)


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """Return the order of a round, rotated by its number, so that no system always runs after the same one."""
    shift = round_number % len(names)
    return [*names[shift:], *names[:shift]]
