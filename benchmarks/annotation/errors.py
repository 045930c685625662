"""A teacher with a known error rate: some references are replaced by those of other rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wheels.data.rows import Row
from wheels.metrics import sentence_scores

TRIES = 50
"""Other rows that are looked at for a label that is wrong; a pool of one label only has none."""


def with_errors(rows: Sequence[Row], share: float, metric: str, seed: int) -> list[str]:
    """Return a label for each row: its reference, or for `round(share * len(rows))` of them that of another row.

    The rows are drawn at random, and the other row too, among those whose reference is not right here by `metric`.
    """
    generator = np.random.default_rng([seed, 11])
    labels = [row.target for row in rows]
    for place in generator.permutation(len(rows))[: round(share * len(rows))]:
        for other in generator.integers(len(rows), size=TRIES):
            candidate = rows[other].target
            if not is_right(candidate, rows[place].target, metric):
                labels[place] = candidate
                break
    return labels


def is_right(label: str, reference: str, metric: str) -> bool:
    """Whether a label is the reference: by value or word for word; of free text, letter for letter."""
    closed = metric if metric in ("exact", "equation") else "exact"
    return sentence_scores(closed, [label], [reference])[0] == 100.0
