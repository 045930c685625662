"""Self-consistency: how far a model's own samples for one source agree (Wang et al. 2022, 2203.11171).

Two samples agree by A_ij in [0, 1]: of texts that are right or wrong, whether both are the same once normalised; of
free text, their chrF or ROUGE. The model's answer is the sample that agrees most with all; for right or wrong that is
the modal answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wheels.annotation.selection import Signal
from wheels.data.equations import value_of
from wheels.errors import WheelsError
from wheels.metrics import chrf_from_totals, sentence_scores, sentence_statistics

CLOSED = ("exact", "equation")
"""The metrics by which an answer is right or wrong."""


def normalised(text: str, metric: str) -> str | None:
    """Return the key under which equal answers compare equal; None for an answer that equals nothing, not even itself.

    Of `equation` the value, to nine digits; of `exact` the words in lower case.
    """
    if metric == "equation":
        value = value_of(text)
        return None if value is None else f"{value:.9g}"
    return " ".join(text.casefold().split())


def agreement(samples: Sequence[str], metric: str) -> NDArray[np.float64]:
    """Return A [K, K], symmetric, in [0, 1]: how far each two of K samples agree by `metric`."""
    count = len(samples)
    agree_KK = np.eye(count)
    if metric in CLOSED:
        forms = [normalised(sample, metric) for sample in samples]
        return np.array([[float(one is not None and one == other) for other in forms] for one in forms])
    first, second = np.tril_indices(count, -1)
    pairs = [(samples[i], samples[j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    agree_KK[first, second] = agree_KK[second, first] = _both_ways(pairs, metric)
    return agree_KK


def _both_ways(pairs: Sequence[tuple[str, str]], metric: str) -> NDArray[np.float64]:
    """Return the mean score, in [0, 1], of each pair with either text as the reference, so that it is symmetric."""
    ones, others = [one for one, _ in pairs], [other for _, other in pairs]
    if metric == "chrf":
        # One count of the n-grams serves both ways: which text is the hypothesis changes two columns of three.
        counts_NK = sentence_statistics(metric, ones, others).values_NK
        turned_NK = counts_NK.copy()
        turned_NK[:, 0::3], turned_NK[:, 1::3] = counts_NK[:, 1::3], counts_NK[:, 0::3]
        return (chrf_from_totals(counts_NK) + chrf_from_totals(turned_NK)) / 200.0
    forth, back = sentence_scores(metric, ones, others), sentence_scores(metric, others, ones)
    return (np.array(forth) + np.array(back)) / 200.0


def consistency(samples: Sequence[str], metric: str) -> Signal:
    """Return the answer of K samples (of equals the first) and how far they agree, in [0, 1].

    max_i mean_j A_ij for right or wrong (the share of the modal answer; 0 where no sample means anything), mean over
    i != j of A_ij for free text.

    Raises:
        WheelsError: for fewer than two samples, which cannot disagree.
    """
    count = len(samples)
    if count < 2:
        raise WheelsError(f"self-consistency needs at least 2 samples, got {count}")
    agree_KK = agreement(samples, metric)
    best = int(agree_KK.mean(axis=1).argmax())
    if metric in CLOSED:
        share = float(agree_KK[best].mean())
    else:
        share = float((agree_KK.sum() - np.trace(agree_KK)) / (count * (count - 1)))
    return Signal(samples[best], min(share, 1.0))
