"""Active learning: which unlabelled rows to annotate, by the doubt of the student or its assistant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wheels.annotation.config import SELECTIONS
from wheels.annotation.grades import GRADES
from wheels.errors import check_choice


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
