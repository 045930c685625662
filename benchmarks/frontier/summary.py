"""From what was measured to `frontier.json`: points, tests against the line of models alone, the cheapest ways."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from wheels import __version__
from wheels.benchmarks.core.bootstrap import compare, holm, interval
from wheels.benchmarks.frontier.front import PARAMETERS, TOKENS, Front
from wheels.benchmarks.frontier.ways import Way

CLAIMED = (PARAMETERS, TOKENS)
"""The costs of the claims: counts, which no machine changes."""
SAID = 0.5
"""Share of the resamples in which a cost must be within reach of the models alone before an interval is given."""


def points(front: Front, metrics: Sequence[str], place: str) -> list[dict[str, Any]]:
    """Return quality and costs of every way, with 95% intervals."""
    return [
        asdict(way)
        | {"line": way.line, "name": way.name}
        | {"metrics": {metric: interval(front.quality(way, metric)) for metric in metrics}}
        | {"costs": {cost: interval(front.cost(way, cost)) for cost in front.costs}}
        | {"tokens_per_text": _length(front, way), "signature": f"{place}|{way.name}|wheels:{__version__}"}
        for way in front.ways
    ]


def _length(front: Front, way: Way) -> float:
    """Return the mean number of tokens of an output."""
    records = [record for key in way.keys for record in front.sample.outputs[key]]
    return sum(record.tokens for record in records) / len(records)


def versus(
    front: Front, metrics: Sequence[str], first: Mapping[str, str], claims: Sequence[float]
) -> list[dict[str, Any]]:
    """Return each way minus the line of models alone at its own cost, by a paired bootstrap.

    The claims are deferral by the first rule of each student, in the first metric, at the budgets of `claims`, at equal
    parameters and at equal teacher tokens: their p is corrected by Holm over all of them. The others are exploratory.
    """
    rows: list[dict[str, Any]] = []
    both = [way for way in front.ways if way.rule]
    for metric, cost, way in itertools.product(metrics, front.costs, both):
        claimed = metric == metrics[0] and cost in CLAIMED and way.method == "deferral" and way.budget in claims
        row = {"line": way.line, "student": way.student, "method": way.method, "rule": way.rule, "budget": way.budget}
        row |= {"metric": metric, "cost": cost, "spent": float(front.cost(way, cost)[0])}
        row |= asdict(compare(front.above_line(way, metric, cost), SAID))
        rows.append(row | {"claimed": claimed and first.get(way.student) == way.rule})
    corrected = iter(holm([row["p"] for row in rows if row["claimed"]]))
    return [row | {"p_holm": next(corrected) if row["claimed"] else math.nan} for row in rows]


def beside(front: Front, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return each way minus the same way of an earlier student of equal size, by a paired bootstrap; exploratory."""
    same = {(way.student, replace(way, student="")): way for way in front.ways}
    rows: list[dict[str, Any]] = []
    for metric, (earlier, later) in itertools.product(metrics, itertools.combinations(front.sizes, 2)):
        if front.sizes[earlier] != front.sizes[later]:
            continue
        for way in (way for way in front.ways if way.student == later):
            other = same.get((earlier, replace(way, student="")))
            if other is None:
                continue
            row = {"student": later, "other": earlier, "method": way.method, "rule": way.rule, "budget": way.budget}
            row |= {"metric": metric, "use": front.cost(way, TOKENS)[0], "other_use": front.cost(other, TOKENS)[0]}
            rows.append(row | asdict(compare(front.quality(way, metric) - front.quality(other, metric))))
    return rows


def cheapest(
    choice: Front, scored: Front, metric: str, levels: Sequence[float], confidence: float
) -> list[dict[str, Any]]:
    """Return, for each share of the teacher's score and each cost, the cheapest way, and what the line would cost.

    A way is chosen on other rows than those that its figures are of, among those that keep the level there in a share
    `confidence` of the resamples. The line of models alone, which may mix two, is asked for the same on the same rows.
    """
    rows = []
    teacher_Z = scored.quality(scored.teacher, metric)
    teacher_Z = np.where(teacher_Z > 0, teacher_Z, np.nan)
    for level, cost in itertools.product(levels, choice.costs):
        floor_Z = level * choice.quality(choice.teacher, metric)
        held = {way: choice.holding(way, metric, floor_Z) for way in choice.ways}
        best = choice.cheapest([way for way in choice.ways if held[way] >= confidence], cost)
        if best is None:  # not timed
            continue
        row = {"level": level, "metric": metric, "cost": cost, "way": best.name, "holding": held[best]}
        row |= {"spent": interval(scored.cost(best, cost)), "share": interval(scored.quality(best, metric) / teacher_Z)}
        rows.append(row | {"line_spent": choice.line_cost(metric, cost, floor_Z, confidence)})
    return rows
