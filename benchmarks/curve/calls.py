"""Call rate of a rule by position in the output, and by frequency of the written token.

A token counts as a call where the teacher wrote it. Every generated token is counted, the end-of-sequence token too.
Axes: N sentences, K bins, Z resamples (row 0 is the sample itself).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wheels.benchmarks.core.bootstrap import interval, resample_sentences, share
from wheels.benchmarks.core.cell import Record
from wheels.decoding.trace import TEACHER

TENTHS = tuple(f"{10 * tenth}-{10 * tenth + 10}%" for tenth in range(10))
"""Names of the bins of relative positions."""
QUARTERS = ("most common", "second", "third", "rarest", "not seen")
"""Names of the bins of frequencies: quarters of the counted text, then the tokens that are not in it."""


Rate = dict[str, Any]
"""Of one bin: its `name`, its `tokens`, the `calls` among them (written by the teacher), and `rate = calls / tokens`,
nan without tokens, with its 95% interval over resamples of sentences."""


def tenth(place: int, length: int) -> int:
    """Return the tenth of an output of `length` tokens that token `place` (from 0) begins in: `10 place // length`."""
    return 10 * place // length


def quarters(texts: Sequence[Sequence[int]]) -> dict[int, int]:
    """Return the quarter, 0 to 3, of each token that stands in `texts`.

    Tokens are ranked by their count, the most common first, ties by token id, and laid end to end. A token belongs to
    the quarter of the running text that the middle of its own stretch lies in: each quarter is about as much text.
    """
    counts = Counter(token for text in texts for token in text)
    total, before, found = sum(counts.values()), 0, {}
    for token, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        found[token] = min(3, 4 * (2 * before + count) // (2 * total))
        before += count
    return found


def rates_by_position(runs: Sequence[Sequence[Record]], resamples: int, seed: int) -> list[Rate]:
    """Return the call rate of each tenth of the outputs.

    `runs` are the records of one decode per seed, the same sentences in each.
    """
    places = [[[tenth(t, record.tokens) for t in range(record.tokens)] for record in run] for run in runs]
    return _rates(TENTHS, runs, places, resamples, seed)


def rates_by_frequency(
    runs: Sequence[Sequence[Record]], quarter: Mapping[int, int], resamples: int, seed: int
) -> list[Rate]:
    """Return the call rate of each quarter of frequencies, and of the tokens without one.

    The token is the one that was written, by whichever model: what the student would have written there is not known
    from its outputs.
    """
    places = [[[quarter.get(token, 4) for token in record.token_ids] for record in run] for run in runs]
    return _rates(QUARTERS, runs, places, resamples, seed)


def overall_rate(runs: Sequence[Sequence[Record]]) -> float:
    """Return calls over tokens of all runs, the expectation of random calls in every bin; nan without tokens."""
    tokens = sum(record.tokens for run in runs for record in run)
    return sum(record.teacher_tokens for run in runs for record in run) / tokens if tokens else math.nan


def _rates(
    names: Sequence[str],
    runs: Sequence[Sequence[Record]],
    places: Sequence[Sequence[Sequence[int]]],
    resamples: int,
    seed: int,
) -> list[Rate]:
    """Return the rate of each bin; `places` holds the bin of each token."""
    calls_NK, tokens_NK = np.zeros((2, len(runs[0]), len(names)))
    for run, run_places in zip(runs, places, strict=True):
        for n, (record, bins) in enumerate(zip(run, run_places, strict=True)):
            by_teacher = [author == TEACHER for author in record.authors]
            np.add.at(tokens_NK[n], bins, 1.0)
            np.add.at(calls_NK[n], bins, by_teacher)
    weights_ZN = resample_sentences(len(runs[0]), resamples, seed)
    rate_ZK = share(weights_ZN @ calls_NK, weights_ZN @ tokens_NK)
    return [
        {"name": name, "tokens": int(tokens_NK[:, k].sum()), "calls": int(calls_NK[:, k].sum())}
        | interval(rate_ZK[:, k], "rate", "low", "high", least=0.0)
        for k, name in enumerate(names)
    ]
