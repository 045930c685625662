"""The texts that are chosen within a budget are those that a search through all choices finds, or nearly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from tests.marks import slow
from wheels.benchmarks.ceiling.allocation import Texts, best_choice
from wheels.metrics import SufficientStatistics, sentence_statistics

ROWS, MOST = 5, 4
WORDS = ("a", "cat", "sat", "on", "the", "mat", "and", "slept", "well", "today")


def texts_of(first: Sequence[int], calls: Sequence[float], length: Sequence[float], value: Sequence[float]) -> Texts:
    """Return texts whose corpus metric is a mean of values."""
    statistics = SufficientStatistics("rougeL", np.asarray(value, dtype=float)[:, None])
    return Texts(np.array(first), np.asarray(calls, dtype=float), np.asarray(length, dtype=float), statistics)


def drawn(seed: int) -> Texts:
    """Return some texts of each row, the first without calls, and values that rise with the calls, more or less."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, MOST + 1, ROWS)
    calls = np.concatenate([np.sort(np.append(0, rng.integers(1, 6, count - 1))) for count in counts])
    value = calls * rng.uniform(0, 2, len(calls)) + rng.uniform(0, 3, len(calls))
    return texts_of(np.cumsum([0, *counts[:-1]]).tolist(), calls, rng.integers(4, 12, len(calls)), value)


def choices(texts: Texts) -> list[np.ndarray]:
    ends = [*texts.first_R[1:], len(texts.calls_N)]
    places = [range(first, end) for first, end in zip(texts.first_R, ends, strict=True)]
    return [np.array(chosen) for chosen in itertools.product(*places)]


def over(texts: Texts, chosen: np.ndarray, budget: float) -> float:
    return round(float((texts.calls_N[chosen] - budget * texts.length_N[chosen]).sum()), 9)


@pytest.mark.parametrize("budget", [0.0, *slow(0.05, 0.1), 0.2, *slow(0.4), 1.0])
def test_the_knapsack_against_brute_force(budget: float) -> None:
    reached = 0
    for seed in range(40):
        texts = drawn(seed)
        chosen_R, value_N = best_choice(texts, budget), texts.statistics.values_NK[:, 0]
        assert over(texts, chosen_R, budget) <= 0.0
        best = max(value_N[one].sum() for one in choices(texts) if over(texts, one, budget) <= 0.0)
        ends = [*texts.first_R[1:], len(value_N)]
        widest = max(np.ptp(value_N[a:b]) for a, b in zip(texts.first_R, ends, strict=True))
        assert best - widest <= value_N[chosen_R].sum() <= best + 1e-9
        reached += bool(np.isclose(value_N[chosen_R].sum(), best))
    assert reached >= (40 if budget in (0.0, 1.0) else 20)


def chosen(value: Sequence[float], budget: float, start: Sequence[int] | None = None) -> list[int]:
    """Two rows of ten tokens, and texts of 0 and 4 calls of the first, 0 and 2 of the second."""
    texts = texts_of([0, 2], [0, 4, 0, 2], [10] * 4, value)
    return best_choice(texts, budget, None if start is None else np.array(start)).tolist()


def test_a_budget_may_be_spent_where_it_helps_most() -> None:
    # A fifth of twenty tokens: four calls, all in the row that gains by them.
    assert chosen([0, 9, 0, 1], 0.2) == [1, 2]
    assert chosen([0, 1, 0, 9], 0.2) == [0, 3]
    assert chosen([0, 1, 0, 9], 0.3) == [1, 3]


def test_a_long_text_pays_for_the_calls_of_others() -> None:
    # A tenth: one call of ten tokens is within it, and one of thirty leaves two for the other row.
    texts = texts_of([0, 3], [0, 1, 1, 0, 3], [10, 10, 30, 10, 10], [0, 5, 4.9, 0, 50])
    assert best_choice(texts, 0.1).tolist() == [2, 4]


def test_what_the_price_leaves_is_spent_too() -> None:
    # At one price both rows would call, and above it neither.
    assert sorted(chosen([0, 4, 0, 2], 0.2)) in ([0, 3], [1, 2])
    assert chosen([0, 4, 0, 2], 0.1) == [0, 3]


def test_nothing_worse_than_the_start_is_returned() -> None:
    missed = 0
    for seed in range(20):
        texts = drawn(seed)
        allowed = [one for one in choices(texts) if over(texts, one, 0.1) <= 0.0]
        best_R = max(allowed, key=texts.value)
        missed += texts.value(best_choice(texts, 0.1)) < texts.value(best_R)
        assert texts.value(best_choice(texts, 0.1, best_R)) == texts.value(best_R)
    assert missed


def test_a_budget_that_is_met_exactly_is_met() -> None:
    texts = texts_of([0, 2, 4], [0, 2, 0, 2, 0], [10] * 5, [0, 9, 0, 9, 0])
    assert (texts.calls_N - 4 / 30 * texts.length_N)[[1, 3, 4]].sum() > 0, "4 / 30 of 30 tokens is not quite 4"
    assert best_choice(texts, 4 / 30).tolist() == [1, 3, 4]


def test_of_texts_as_good_the_one_of_fewest_calls_is_chosen() -> None:
    assert best_choice(texts_of([0], [0, 1, 2], [10] * 3, [0, 5, 5]), 1.0).tolist() == [1]


def written(metric: str, seed: int, rows: int = ROWS) -> tuple[Texts, list[str], list[str]]:
    """Return texts whose words are those of the reference, the more the more calls."""
    rng = np.random.default_rng(seed)
    hypotheses, references, lengths = list[str](), list[str](), list[float]()
    for _ in range(rows):
        words = rng.choice(WORDS, 8).tolist()
        for calls in range(MOST):
            kept = rng.permutation(8)[: 3 + calls]
            text = [word if place in kept else rng.choice(WORDS) for place, word in enumerate(words)]
            hypotheses.append(" ".join(text[: rng.integers(6, 9)]))
            references.append(" ".join(words))
            lengths.append(float(rng.integers(6, 11)))
    calls_N = np.tile(np.arange(MOST, dtype=float), rows)
    first_R = np.arange(0, rows * MOST, MOST)
    statistics = sentence_statistics(metric, hypotheses, references)
    return Texts(first_R, calls_N, np.array(lengths), statistics), hypotheses, references


@pytest.mark.parametrize("metric", ["bleu", "chrf", "rougeL"])
@pytest.mark.parametrize("budget", [0.1, 0.2, 0.3])
def test_a_corpus_metric_against_brute_force(metric: str, budget: float) -> None:
    shares = []
    for seed in range(4):
        texts, hypotheses, references = written(metric, seed)
        statistics, chosen_R = texts.statistics, best_choice(texts, budget)
        value = texts.value(chosen_R)
        assert over(texts, chosen_R, budget) <= 0.0
        assert value == pytest.approx(corpus(metric, hypotheses, references, chosen_R))
        allowed = [one for one in choices(texts) if over(texts, one, budget) <= 0.0]
        best = statistics.resampled(np.array([np.bincount(one, minlength=len(statistics)) for one in allowed])).max()
        student = corpus(metric, hypotheses, references, texts.first_R)
        assert student <= value <= best + 1e-9
        shares.append((value - student) / (best - student))
    assert np.mean(shares) > 0.9


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_text_is_chosen_for_the_corpus_and_not_for_its_row(metric: str) -> None:
    """Without a limit, of texts of any length: short ones pay in another row than their own."""
    reached = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        words = [rng.choice(WORDS, 9).tolist() for _ in range(ROWS)]
        hypotheses = [
            " ".join(word if rng.random() < 0.7 else "x" for word in own[: rng.integers(2, 10)])
            for own in words
            for _ in range(MOST)
        ]
        references = [" ".join(own) for own in words for _ in range(MOST)]
        statistics = sentence_statistics(metric, hypotheses, references)
        texts = Texts(np.arange(0, ROWS * MOST, MOST), np.zeros(ROWS * MOST), np.ones(ROWS * MOST), statistics)
        counts = np.array([np.bincount(one, minlength=len(statistics)) for one in choices(texts)])
        reached += bool(np.isclose(texts.value(best_choice(texts, 1.0)), statistics.resampled(counts).max()))
    assert reached == 40


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["bleu", *slow("chrf", "rougeL")])
def test_no_other_text_of_one_row_would_be_better(metric: str) -> None:
    texts, _, _ = written(metric, 0, rows=60)
    for budget in (0.05, 0.1, 0.2):
        chosen_R = best_choice(texts, budget)
        for row, first in enumerate(texts.first_R):
            for place in range(first, first + MOST):
                other_R = chosen_R.copy()
                other_R[row] = place
                if over(texts, other_R, budget) <= 0.0:
                    assert texts.value(other_R) <= texts.value(chosen_R) + 1e-9


def corpus(metric: str, hypotheses: Sequence[str], references: Sequence[str], chosen: np.ndarray) -> float:
    own = [[texts[place] for place in chosen] for texts in (hypotheses, references)]
    return sentence_statistics(metric, own[0], own[1]).corpus()
