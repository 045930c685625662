"""From the texts that were found to the sets of calls of each ceiling, at each budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wheels.benchmarks.ceiling.allocation import Texts, best_choice
from wheels.benchmarks.ceiling.call_sets import Calls, Text
from wheels.benchmarks.core.cell import PointKey
from wheels.metrics import sentence_statistics
from wheels.metrics.names import Reference

IMITATION = "imitation"
"""The ceiling that knows the teacher's texts, and not the references."""


@dataclass(frozen=True)
class Found:
    """What the search left of one row."""

    texts: Sequence[Text]
    """In the order in which they were written."""
    closed: bool
    """Whether these are all the texts that any set of calls makes."""


def ceiling_of(metric: str) -> str:
    """Return the name of a metric's ceiling."""
    return f"ceiling-{metric}"


def choose(
    found: Sequence[Found],
    targets: Sequence[Reference],
    metric: str,
    budgets: Sequence[float],
    sources: Sequence[str] | None = None,
) -> dict[float, tuple[list[Calls], float]]:
    """Return the set of calls of each row, and the corpus metric of their texts, at each budget.

    Args:
        found: of each row.
        targets: what each row's text is compared with.
        metric: by which.
        budgets: shares of the tokens that the calls may be.
        sources: of the rows, where the metric reads them.
    """
    rows = [sorted(one.texts, key=lambda text: len(text.calls)) for one in found]
    flat = [text for texts in rows for text in texts]
    against = [target for target, texts in zip(targets, rows, strict=True) for _ in texts]
    read = sources and [source for source, texts in zip(sources, rows, strict=True) for _ in texts]
    texts = Texts(
        first_R=np.cumsum([0, *map(len, rows[:-1])]),
        calls_N=np.array([len(text.calls) for text in flat], dtype=np.float64),
        length_N=np.array([text.length for text in flat], dtype=np.float64),
        statistics=sentence_statistics(metric, [text.text for text in flat], against, read),
    )
    chosen, best_R = dict[float, tuple[list[Calls], float]](), None
    for budget in sorted(budgets):
        best_R = best_choice(texts, budget, best_R)
        chosen[budget] = ([flat[place].calls for place in best_R], texts.value(best_R))
    return chosen


def halved(found: Sequence[Found]) -> list[Found]:
    """Return what half the texts of every row that was not closed would have left."""
    return [one if one.closed else Found(one.texts[: (len(one.texts) + 1) // 2], False) for one in found]


def call_sets(
    found: Sequence[Found],
    targets: Mapping[str, tuple[str, Sequence[Reference]]],
    budgets: Sequence[float],
    sources: Sequence[str] | None = None,
) -> tuple[dict[PointKey, list[Calls]], list[dict[str, float | str]]]:
    """Return the sets of calls of every ceiling, and how much of each half the search would have found.

    Args:
        found: of each row.
        targets: by the name of the ceiling: its metric, and what each row's text is compared with.
        budgets: at which.
        sources: of the rows, where a metric reads them.
    """
    sets, halves = dict[PointKey, list[Calls]](), list[dict[str, float | str]]()
    for name, (metric, texts) in targets.items():
        half = choose(halved(found), texts, metric, budgets, sources)
        for budget, (calls, value) in choose(found, texts, metric, budgets, sources).items():
            sets[PointKey(name, 0, budget)] = calls
            halves.append({"rule": name, "budget": budget, "value": value, "half": half[budget][1]})
    return sets, halves
