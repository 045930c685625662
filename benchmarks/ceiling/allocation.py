"""Which text of each row: the best corpus metric whose calls stay within the budget, over all rows together.

maximise F(sum_r s_r)   subject to   sum_r (c_r - b n_r) <= 0

with the calls c, the tokens n and the metric's statistics s of the text that is chosen for row r: a multiple-choice
knapsack. Its Lagrangian relaxation has one number as its only unknown, the price of a call. For F linear, such as a
mean, it misses the best value by less than one row's (Sinha and Zoltners 1979, https://doi.org/10.1287/opre.27.3.503).
BLEU and chrF of a corpus are not linear: each row in turn takes the text that is best for the whole corpus, until none
changes, which finds a lower bound of the best.

Axes: N texts of all rows, those of a row side by side, fewest calls first; R rows; K statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wheels.benchmarks.core.bootstrap import Floats
from wheels.metrics import SufficientStatistics, bleu_from_totals, chrf_from_totals

Whole = NDArray[np.int64]

TURNS = 20
"""Times that every row has its turn at one price; a few are enough."""
HALVINGS = 30
"""Of the interval that holds the price."""
ROUNDING = 1e-9
"""Calls above the budget that are let pass: 4 / 30 of 30 tokens is not quite 4."""


@dataclass(frozen=True)
class Texts:
    """What may be chosen."""

    first_R: Whole
    """The place of each row's first text, which has no calls."""
    calls_N: Floats
    length_N: Floats
    statistics: SufficientStatistics
    """Of the metric, of each text."""

    @cached_property
    def corpus(self) -> Callable[[Floats], Floats]:
        """F: summed statistics `[Z, K]` to the metric `[Z]`; of a mean, its sum."""
        known = {"bleu": bleu_from_totals, "chrf": chrf_from_totals}
        return known.get(self.statistics.metric, lambda total_ZK: total_ZK[:, 0])

    def value(self, chosen_R: Whole) -> float:
        """Return the corpus metric of some texts, 0 to 100."""
        return self.statistics.corpus(chosen_R)


def best_choice(texts: Texts, budget: float, start_R: Whole | None = None) -> Whole:
    """Return the place of the text chosen for each row.

    Args:
        texts: of all rows.
        budget: the share of the tokens that the calls may be.
        start_R: a choice within the budget, such as that of a smaller one; nothing worse is returned.
    """
    over_N = texts.calls_N - budget * texts.length_N - ROUNDING / len(texts.first_R)
    chosen_R = _settled(texts, texts.first_R, over_N, price=0.0)
    if over_N[chosen_R].sum() > 0.0:
        chosen_R = _affordable(texts, chosen_R, over_N)
    known = [chosen_R] if start_R is None else [chosen_R, start_R]
    return max((_settled(texts, one_R, over_N, limit=0.0) for one_R in known), key=texts.value)


def _affordable(texts: Texts, chosen_R: Whole, over_N: Floats) -> Whole:
    """Return what rows choose at the least price at which they stay within the budget."""
    low, high = 0.0, 1.0
    while over_N[within_R := _settled(texts, chosen_R, over_N, price=high)].sum() > 0.0:
        low, high = high, 2.0 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        chosen_R = _settled(texts, within_R, over_N, price=middle)
        if over_N[chosen_R].sum() > 0.0:
            low = middle
        else:
            high, within_R = middle, chosen_R
    return within_R


def _settled(texts: Texts, chosen_R: Whole, over_N: Floats, *, price: float = 0.0, limit: float = math.inf) -> Whole:
    """Let each row in turn take the text that is best for the corpus, until none changes.

    Args:
        texts: of all rows.
        chosen_R: what they begin with.
        over_N: how far each text is above the budget, in calls.
        price: of a call above the budget, in points of the corpus metric.
        limit: how far all rows together may be above it.
    """
    values_NK, chosen_R = texts.statistics.values_NK, chosen_R.copy()
    last_R = np.append(texts.first_R[1:], len(over_N))
    for _ in range(TURNS):
        before_R = chosen_R.copy()
        total_K, over = values_NK[chosen_R].sum(axis=0), over_N[chosen_R].sum()
        for row, (first, last) in enumerate(zip(texts.first_R, last_R, strict=True)):
            rest_K, rest = total_K - values_NK[chosen_R[row]], over - over_N[chosen_R[row]]
            value_N = texts.corpus(rest_K + values_NK[first:last]) - price * over_N[first:last]
            value_N[rest + over_N[first:last] > limit] = -math.inf
            if value_N.max() > value_N[chosen_R[row] - first]:
                chosen_R[row] = first + value_N.argmax()
            total_K, over = rest_K + values_NK[chosen_R[row]], rest + over_N[chosen_R[row]]
        if np.array_equal(before_R, chosen_R):
            break
    return chosen_R
