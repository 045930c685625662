"""Active learning: which unlabelled rows to annotate, by the doubt of the student or its assistant.

Self-consistency is how far a model's own samples for one source agree (Wang et al. 2022, 2203.11171). Two samples agree
by A_ij in [0, 1]: of texts that are right or wrong, whether both are the same once normalised; of free text, their chrF
or ROUGE. The model's answer is the sample that agrees most with all; for right or wrong that is the modal answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wheels.annotation.config import SELECTIONS
from wheels.annotation.grades import GRADES
from wheels.data.equations import value_of
from wheels.errors import WheelsError, check_choice
from wheels.metrics import chrf_from_totals, sentence_scores, sentence_statistics


@dataclass(frozen=True)
class Signal:
    """What is known about an unlabelled row before it is annotated."""

    answer: str
    consistency: float
    """How far the student's samples agree, in [0, 1]."""
    grade: int | None = None
    """The assistant's grade of the answer, 0 (very confident) to 3 (wrong answer); None: it was not asked."""


def trust(signal: Signal) -> tuple[float, float]:
    """Return the trust in an answer: the lower of consistency and grade, then their sum; both in [0, 1].

    A grade g counts as 1 - g / 3. The lower of the two, so that a row goes to the teacher where EITHER is low.
    """
    if signal.grade is None:
        return signal.consistency, signal.consistency
    confidence = 1.0 - signal.grade / (len(GRADES) - 1)
    return min(signal.consistency, confidence), signal.consistency + confidence


def random_order(count: int, seed: int) -> NDArray[np.int64]:
    """Return the rows 0 to count - 1 in a random order."""
    return np.random.default_rng([seed, 7]).permutation(count)


def choose(
    kind: str, count: int, *, rows: Sequence[int], seed: int, signals: Sequence[Signal] | None = None
) -> list[int]:
    """Return the `count` rows to annotate, most doubtful first; fewer where there are fewer.

    Args:
        kind: one of `SELECTIONS`.
        count: how many.
        rows: the candidates.
        seed: of the random order, which also decides between equals.
        signals: one for each of `rows`; random needs none.

    Raises:
        WheelsError: for an unknown kind.
    """
    check_choice("select", kind, SELECTIONS)
    order = random_order(len(rows), seed)
    if kind == "random":
        return [rows[place] for place in order[:count]]
    assert signals is not None and len(signals) == len(rows), "a selection by doubt needs a signal for each row"
    if kind == "consistency":
        keys = [(signals[place].consistency, 0.0) for place in order]
    else:
        keys = [trust(signals[place]) for place in order]
    # The sort is stable: equals stay in their random order.
    ranked = sorted(range(len(order)), key=lambda place: keys[place])
    return [rows[order[place]] for place in ranked[:count]]


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
