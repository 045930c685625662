"""The picture of a frontier: quality against each cost, students alone as a line, deferral from each as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wheels.benchmarks.core.style import (
    DOTTED,
    Look,
    Theme,
    Weight,
    legend,
    line,
    new_figure,
    nth,
    percent,
)
from wheels.benchmarks.frontier.front import PARAMETERS, TOKENS
from wheels.benchmarks.frontier.table import cost_words
from wheels.benchmarks.passes.settings import frontier
from wheels.metrics import metric_name

ALONE = Weight(2.6, 8.0, 6)
LEAST = 0.8
"""Share of the teacher's score at which the picture begins."""
Points = Sequence[Mapping[str, Any]]


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `frontier.json` holds: a panel for each cost."""
    metric, costs = next(iter(found["metrics"])), list(found["points"][0]["costs"])
    columns = 2 if len(costs) > 1 else 1
    rows = -(-len(costs) // columns)
    title = f"{found['task']}: {metric_name(metric)} against what a token costs, n = {found['rows']}"
    figure = new_figure(title, 6.0 * columns, 1.4 + 4.2 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for axes, cost in zip(panels, costs, strict=False):
        _draw_cost(axes, found, metric, cost, theme)
    for axes in panels[len(costs) :]:
        axes.set_axis_off()
    below = _zoom(panels[0], found["points"], metric)
    for axes in panels[::columns]:
        axes.set_ylabel(metric_name(metric))
    note = "Bars: 95% of the difference to the line at that cost." + (f" Below the picture: {below}." if below else "")
    legend(figure, panels[: len(costs)], note, loc="outside lower left", ncols=2 * columns)
    return figure


def _zoom(axes: Axes, points: Points, metric: str) -> str:
    """Begin the picture at a share of the teacher's score, and name the models alone that stand below it."""
    qualities = {point["name"]: point["metrics"][metric]["value"] for point in points}
    teacher, low, high = qualities["teacher alone"], min(qualities.values()), max(qualities.values())
    bottom = max(LEAST * teacher, low - 0.05 * (high - low))
    axes.set_ylim(bottom, high + 0.1 * (high - bottom))
    alone = [point for point in points if not point["rule"] and qualities[point["name"]] < bottom]
    return ", ".join(f"{point['student']} {qualities[point['name']]:.1f}" for point in alone)


def _draw_cost(axes: Axes, found: Mapping[str, Any], metric: str, cost: str, theme: Theme) -> None:
    """Draw one panel: the models alone, and each student's curves by its first rule."""
    scale = 1.0 if cost in (PARAMETERS, TOKENS) else 1000.0
    alone, both = ([p for p in found["points"] if bool(p["rule"]) == ruled] for ruled in (False, True))
    _draw_alone(axes, alone, metric, cost, scale, theme)
    ends = {
        (row["line"], row["budget"]): row for row in found["versus"] if (row["metric"], row["cost"]) == (metric, cost)
    }
    for place, student in enumerate(point["student"] for point in alone if point["student"]):
        own = [point for point in both if point["student"] == student]
        for name in dict.fromkeys(point["line"] for point in own if point["rule"] == own[0]["rule"]):
            mine = [point for point in own if point["line"] == name]
            look = replace(nth(place, name), dashes="-" if mine[0]["method"] == "deferral" else DOTTED)
            x = [scale * point["costs"][cost]["value"] for point in mine]
            y = [point["metrics"][metric]["value"] for point in mine]
            bars = [_bar(value, ends[name, point["budget"]]) for value, point in zip(y, mine, strict=True)]
            line(axes, theme, look, x, y, low=[low for low, _ in bars], high=[high for _, high in bars])
    axes.set(xlabel=cost_words(cost), xlim=(-0.02 * axes.get_xlim()[1], None))
    if cost == TOKENS:
        percent(axes.xaxis)


def _bar(value: float, row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the ends of a bar that meets the line of models alone where the difference may be 0."""
    if row["low"] is None:
        return value, value
    return value - row["difference"] + row["low"], value - row["difference"] + row["high"]


def _draw_alone(axes: Axes, alone: Points, metric: str, cost: str, scale: float, theme: Theme) -> None:
    """Draw the line of models alone, its points with their names, and the teacher's level."""
    places = [(scale * point["costs"][cost]["value"], point["metrics"][metric]["value"]) for point in alone]
    on_line = [places[index] for index in frontier(places)]
    look = Look("models alone, and mixtures of them", theme.ink, "")
    line(axes, theme, look, [x for x, _ in on_line], [y for _, y in on_line], ALONE)
    for point, (x, y) in zip(alone, places, strict=True):
        axes.plot(x, y, "o", color=theme.ink, ms=ALONE.size, zorder=7)
        name, end = point["student"] or "teacher", not point["student"]
        place: Any = {"textcoords": "offset points", "size": 9, "zorder": 8, "ha": "right" if end else "left"}
        axes.annotate(name, (x, y), (-6, 6) if end else (7, -11), **place)
