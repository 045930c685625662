"""The picture of a sweep: quality over temperature, a line a kind of label; below it over weight, a line a temperature.

A panel a size, small to large, all on one scale. The weights have a row where there are several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from wheels.benchmarks.core.style import DASHED, Theme, legend, level, line, new_figure, nth
from wheels.benchmarks.distillation.table import kind_name
from wheels.metrics import metric_name

FAR = 1.6
"""A teacher beyond this many times the best student's score is off the scale."""
LEAST_TOP = 1.0
"""A scale ends no lower, so that models that can do nothing lie on the floor."""

Line = Mapping[str, Any]


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `distillation.json` holds."""
    lines, quality = found["lines"], metric_name(found["metrics"][0])
    sizes = list(dict.fromkeys(each["size"] for each in lines))
    rows = 2 if len({each["w"] for each in lines if each["label"] == "both"}) > 1 else 1
    title = f"{found['task']}: {quality} by labels, temperature and size, n = {found['sentences']}"
    figure = new_figure(title, max(7.6, 2.4 + 2.8 * len(sizes)), 0.7 + 3.3 * rows)
    panels = figure.subplots(rows, len(sizes), sharey=True, squeeze=False)
    for place, size in enumerate(sizes):
        _draw_temperatures(panels[0, place], found, size, theme)
        if rows > 1:
            _draw_weights(panels[1, place], found, size, theme)
    for row, name in zip(panels, ("labels", "temperature"), strict=False):
        row[0].set_ylabel(quality)
        legend(row[-1], list(row), name, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return figure


def _draw_temperatures(axes: Axes, found: Mapping[str, Any], size: str, theme: Theme) -> None:
    """Draw one size over temperatures, hard labels and the teacher across."""
    names = list(dict.fromkeys(kind_name(each) for each in found["lines"] if each["temperature"] is not None))
    lines, ticks = [each for each in found["lines"] if each["size"] == size], temperatures(found)
    for place, name in enumerate(names):
        points = sorted(
            (each["temperature"], each) for each in lines if each["temperature"] and kind_name(each) == name
        )
        shift = 1.0 + 0.04 * (place - (len(names) - 1) / 2)
        _draw_points(axes, [x * shift for x, _ in points], [each for _, each in points], found, place, name, theme)
    for each in lines:
        if each["label"] == "hard":
            score = each["scores"][found["metrics"][0]]
            axes.axhline(score["mean"], color=theme.ink, linewidth=1.3, linestyle=DASHED, label="hard")
            axes.axhspan(score["low"], score["high"], color=theme.ink, alpha=0.08, linewidth=0)
    _set_scale(axes, found, theme)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    if ticks:
        axes.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.2)
    axes.set(xlabel="temperature T", title=f"{size}: {lines[0]['parameters']:,} parameters")


def _draw_weights(axes: Axes, found: Mapping[str, Any], size: str, theme: Theme) -> None:
    """Draw one size over weights: from hard labels, w = 0, to soft ones, w = 1."""
    lines, every = [each for each in found["lines"] if each["size"] == size], temperatures(found)
    for place, temperature in enumerate(every):
        mine = sorted(
            (each for each in lines if each["temperature"] in (None, temperature)),
            key=lambda each: (each["w"], each["name"]),
        )
        shift = 0.015 * (place - (len(every) - 1) / 2)
        _draw_points(axes, [each["w"] + shift for each in mine], mine, found, place, f"T = {temperature:g}", theme)
    _set_scale(axes, found, theme)
    ticks = sorted({each["w"] for each in found["lines"]})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("weight w (0: hard labels, 1: soft labels)")


def temperatures(found: Mapping[str, Any]) -> list[float]:
    """Return the temperatures of a sweep, lowest first."""
    return sorted({each["temperature"] for each in found["lines"] if each["temperature"] is not None})


def _set_scale(axes: Axes, found: Mapping[str, Any], theme: Theme) -> None:
    """Set the scale and draw the teacher; one that would press all others together is told in words instead."""
    quality = found["metrics"][0]
    teacher, top = found["teacher"][quality]["mean"], max(each["scores"][quality]["high"] for each in found["lines"])
    if teacher <= FAR * top or top <= 0.0:
        level(axes, theme, teacher, f"teacher: {teacher:.1f}")
        axes.set_ylim(0.0, max(LEAST_TOP, 1.12 * max(teacher, top)))
        return
    axes.set_ylim(0.0, max(LEAST_TOP, 1.15 * top))
    words = f"\N{UPWARDS ARROW} teacher, {found['teacher']['parameters']:,} parameters: {teacher:.1f}"
    axes.annotate(words, (0.98, 0.985), xycoords="axes fraction", ha="right", va="top", color=theme.pale, size=9)


def _draw_points(
    axes: Axes, x: Sequence[float], lines: Sequence[Line], found: Mapping[str, Any], place: int, name: str, theme: Theme
) -> None:
    """Draw one line over `x` with its intervals."""
    scores = [each["scores"][found["metrics"][0]] for each in lines]
    mean, low, high = (np.array([score[end] for score in scores]) for end in ("mean", "low", "high"))
    if len(mean):
        line(axes, theme, nth(place, name), x, mean, low=low, high=high)
