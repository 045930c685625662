"""What every rule reaches of the way from random calls to the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wheels.benchmarks.ceiling.ceilings import IMITATION, ceiling_of
from wheels.benchmarks.core.bootstrap import interval, share
from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.benchmarks.curve.resampled import Curves, Resampled, SentenceStatistics, per_token
from wheels.metrics import sentence_statistics
from wheels.metrics.names import Reference


def summarise(
    outputs: Mapping[PointKey, Sequence[Record]],
    references: Sequence[Reference],
    metrics: Sequence[str],
    rules: Sequence[str],
    budgets: Sequence[float],
    resamples: int,
    statistics: SentenceStatistics = sentence_statistics,
) -> dict[str, Any]:
    """Return the points, and each rule at equal use with its share of the way from random to the ceiling."""
    sample = Resampled(outputs, references, metrics, statistics, resamples, 0)
    ceilings = [*map(ceiling_of, metrics), IMITATION]
    curves = Curves(sample, {**_lines(sample, rules, [TEACHER_END]), **_lines(sample, ceilings, [])}, sample.use)
    ends = {
        name: {metric: float(sample.quality[metric, key][0]) for metric in metrics}
        for name, key in (("student", STUDENT_END), ("teacher", TEACHER_END))
    }
    at_use = [
        _at_use(curves, name, metric, budget)
        for metric in metrics
        for budget in budgets
        for name in (*rules, IMITATION, ceiling_of(metric))
    ]
    return {**ends, "points": _points(outputs, sample, metrics), "at_use": at_use}


def _lines(sample: Resampled, names: Sequence[str], last: list[PointKey]) -> dict[str, list[list[PointKey]]]:
    """Return the decodes of each system, from the student's to `last`.

    A ceiling that needs no more calls has no further points: more budget leaves it as it is.
    """
    return {
        name: [
            [STUDENT_END, *sorted(key for key in sample.use if (key.rule, key.seed) == (name, seed)), *last]
            for seed in sample.seeds(name)
        ]
        for name in names
    }


def _points(
    outputs: Mapping[PointKey, Sequence[Record]], sample: Resampled, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Return every decode's use and metrics."""
    return [
        {"rule": key.rule, "seed": key.seed, "budget": key.budget, "use": per_token(records)["use"]}
        | {"metrics": {metric: float(sample.quality[metric, key][0]) for metric in metrics}}
        for key, records in outputs.items()
    ]


def _at_use(curves: Curves, name: str, metric: str, use: float) -> dict[str, Any]:
    """Return a system's metric at a use, and its shares of the way from random to the ceiling and to imitation."""
    value_Z, random_Z = (curves.at(one, metric, use) for one in (name, "random"))
    found = {"rule": name, "metric": metric, "use": use} | interval(value_Z)
    for which, top in (("share", ceiling_of(metric)), ("imitated", IMITATION)):
        way_Z = curves.at(top, metric, use) - random_Z  # nan below, where the top is no higher
        found |= interval(share(value_Z - random_Z, way_Z), which, f"{which}_low", f"{which}_high")
    return found
