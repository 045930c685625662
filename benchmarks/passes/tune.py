"""The family `tuned`: when to call and how far to trust the draft, both chosen on validation rows, per cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wheels.benchmarks.curve.resampled import per_token
from wheels.benchmarks.passes.settings import Setting
from wheels.data.tasks import Row
from wheels.metrics import score

Measure = tuple[float, float]
"""Passes per token, and quality."""


@dataclass(frozen=True)
class Tried:
    """A setting of the sweep, with quality and cost on the tuning rows."""

    name: str
    """The family and the setting."""
    passes: float
    """Teacher passes per generated token."""
    quality: float
    chosen: bool
    """Whether it lies on the frontier."""


def frontier(points: Sequence[Measure]) -> list[int]:
    """Return which points lie on the upper concave envelope of quality over passes, in rising order of passes.

    From the cheapest point to the best one, each part less steep than the one before; what lies under a chord between
    two others is left out, for a mixture of these two, row by row, is as good at the same cost. Of points that are
    equal the first stands.
    """
    hull: list[int] = []
    for here in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1], index)):
        if hull and points[here][1] <= points[hull[-1]][1]:
            continue
        while len(hull) > 1 and _under(points[hull[-2]], points[hull[-1]], points[here]):
            hull.pop()
        hull.append(here)
    return hull


def _under(left: Measure, middle: Measure, right: Measure) -> bool:
    """Tell whether the middle point lies on or under the chord between the others."""
    (x0, y0), (x1, y1), (x2, y2) = left, middle, right
    return (y1 - y0) * (x2 - x0) <= (y2 - y0) * (x1 - x0)


def choose(
    settings: Sequence[Setting], outputs: Sequence[Sequence[Any]], rows: Sequence[Row], metric: str
) -> list[Tried]:
    """Return quality and cost of each setting; those on the frontier are chosen."""
    points, sources, references = [], [row.source for row in rows], [row.scored_against for row in rows]
    for records in outputs:
        quality = score(metric, [record.text for record in records], references, sources).value
        points.append((per_token(records)["passes_per_token"], quality))
    best = set(frontier(points))
    return [
        Tried(each.name, *point, place in best)
        for place, (each, point) in enumerate(zip(settings, points, strict=True))
    ]
