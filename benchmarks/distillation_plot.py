"""The picture of a sweep: quality over temperature, a panel a size, a line a kind of label."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from wheels.benchmarks.distillation_summary import Line, Summary
from wheels.benchmarks.distillation_table import kind_name
from wheels.benchmarks.plot import COLOURS, GRID, INK, PALE, STYLE, as_png, metric_name

PALETTE = tuple(COLOURS[name] for name in ("learned", "regret", "maxprob", "margin", "gate", "router", "every-k"))
FAR = 1.6
"""A teacher beyond this many times the best student's score is off the scale."""
LEAST_TOP = 1.0
"""A scale ends no lower, so that models that can do nothing lie on the floor."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def draw(summary: Summary) -> bytes:
    """Return the picture as PNG: a row of panels, small to large, on one scale."""
    quality = summary.metrics[0]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(7.6, 2.2 + 3.1 * len(summary.sizes)), 4.3), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(summary.sizes), sharey=True))
        names = list(dict.fromkeys(kind_name(line) for line in summary.lines if line.temperature is not None))
        for axes, size in zip(panels, summary.sizes, strict=True):
            _draw_size(axes, summary, size, names)
        panels[0].set_ylabel(metric_name(quality))
        handles: dict[str, Any] = {}
        for axes in panels:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), frameon=False, loc="outside right center", title="labels",
                      alignment="left")  # fmt: skip
        title = f"{summary.task}: {metric_name(quality)} by labels and temperature, n = {summary.sentences}"
        figure.suptitle(title, x=0.008, ha="left", weight="bold", size=11.5)
        return as_png(figure)


def _draw_size(axes: Axes, summary: Summary, size: str, names: list[str]) -> None:
    """Draw one size: its lines over temperatures, hard labels and the teacher across."""
    quality = summary.metrics[0]
    lines = [line for line in summary.lines if line.size == size]
    for place, name in enumerate(names):
        points = sorted((line.temperature, line) for line in lines if kind_name(line) == name and line.temperature)
        _draw_points(axes, [line for _, line in points], quality, place, name)
    for line in lines:
        if line.label == "hard":
            score = line.scores[quality]
            axes.axhline(score["mean"], color=INK, linewidth=1.3, linestyle=(0, (4, 2)), label="hard")
            axes.axhspan(score["low"], score["high"], color=INK, alpha=0.08, linewidth=0)
    _draw_teacher(axes, summary)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xscale("log")
    ticks = sorted({line.temperature for line in summary.lines if line.temperature is not None})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    if ticks:
        axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    axes.set_xlabel("temperature T")
    axes.set_title(f"{size}: {lines[0].parameters:,} parameters", loc="left", size=9.5, color=INK)


def _draw_teacher(axes: Axes, summary: Summary) -> None:
    """Draw the teacher's line; one that would press all others together is told in words instead."""
    quality = summary.metrics[0]
    teacher = summary.teacher[quality]["mean"]
    top = max(line.scores[quality]["high"] for line in summary.lines)
    if teacher <= FAR * top or top <= 0.0:
        axes.axhline(teacher, color=PALE, linewidth=1.2, linestyle=(0, (1, 1.5)), label=f"teacher: {teacher:.1f}")
        axes.set_ylim(0.0, max(LEAST_TOP, 1.08 * max(teacher, top)))
        return
    axes.set_ylim(0.0, max(LEAST_TOP, 1.1 * top))
    words = f"\N{UPWARDS ARROW} teacher, {summary.teacher['parameters']:,} parameters: {teacher:.1f}"
    axes.annotate(words, (0.97, 0.985), xycoords="axes fraction", ha="right", va="top", color=PALE, size=8.5,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # fmt: skip


def _draw_points(axes: Axes, lines: list[Line], quality: str, place: int, name: str) -> None:
    """Draw one line over temperatures with its band."""
    if not lines:
        return
    colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
    scores = [line.scores[quality] for line in lines]
    x = [line.temperature or 1.0 for line in lines]
    axes.plot(x, [score["mean"] for score in scores], color=colour, marker=marker, markersize=5, linewidth=1.6,
              markeredgecolor="white", markeredgewidth=0.6, label=name, zorder=3)  # fmt: skip
    axes.fill_between(
        x, [score["low"] for score in scores], [score["high"] for score in scores], color=colour, alpha=0.16,
        linewidth=0, zorder=2,
    )  # fmt: skip
