"""The picture of a sweep: quality over temperature, a line a kind of label; below it over weight, a line a temperature.

A panel a size, small to large, all on one scale. The weights have a row where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from wheels.benchmarks.curve.plot import GRID, INK, PALE, STYLE, as_png, metric_name
from wheels.benchmarks.distillation.summary import KindScores, SweepSummary
from wheels.benchmarks.distillation.table import kind_name
from wheels.decoding.methods.rules import RULES

PALETTE = tuple(RULES[name].color for name in ("learned", "regret", "maxprob", "margin", "gate", "router", "every-k"))
FAR = 1.6
"""A teacher beyond this many times the best student's score is off the scale."""
LEAST_TOP = 1.0
"""A scale ends no lower, so that models that can do nothing lie on the floor."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def draw(summary: SweepSummary) -> bytes:
    """Return the picture as PNG."""
    quality = summary.metrics[0]
    rows = 2 if len({line.w for line in summary.lines if line.label == "both"}) > 1 else 1
    with matplotlib.rc_context(STYLE):
        size = (max(7.6, 2.2 + 3.1 * len(summary.sizes)), 0.7 + 3.6 * rows)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, len(summary.sizes), sharey=True, squeeze=False)
        for place, name in enumerate(summary.sizes):
            _draw_temperatures(panels[0, place], summary, name)
            if rows > 1:
                _draw_weights(panels[1, place], summary, name)
        for row, title in zip(panels, ("labels", "temperature"), strict=False):
            row[0].set_ylabel(metric_name(quality))
            handles = {
                label: handle for axes in row for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            row[-1].legend(handles.values(), handles.keys(), frameon=False, loc="upper left", title=title,
                           bbox_to_anchor=(1.02, 1.0), alignment="left")  # fmt: skip
        title = f"{summary.task}: {metric_name(quality)} by labels, temperature and size, n = {summary.sentences}"
        figure.suptitle(title, x=0.008, ha="left", weight="bold", size=11.5)
        return as_png(figure)


def _draw_temperatures(axes: Axes, summary: SweepSummary, size: str) -> None:
    """Draw one size over temperatures, hard labels and the teacher across."""
    quality = summary.metrics[0]
    names = list(dict.fromkeys(kind_name(line) for line in summary.lines if line.temperature is not None))
    lines = [line for line in summary.lines if line.size == size]
    for place, name in enumerate(names):
        points = sorted((line.temperature, line) for line in lines if kind_name(line) == name and line.temperature)
        _draw_points(axes, [x for x, _ in points], [line for _, line in points], quality, place, name)
    for line in lines:
        if line.label == "hard":
            score = line.scores[quality]
            axes.axhline(score["mean"], color=INK, linewidth=1.3, linestyle=(0, (4, 2)), label="hard")
            axes.axhspan(score["low"], score["high"], color=INK, alpha=0.08, linewidth=0)
    _draw_frame(axes, summary)
    axes.set_xscale("log")
    ticks = temperatures(summary)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    if ticks:
        axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    axes.set_xlabel("temperature T")
    axes.set_title(f"{size}: {lines[0].parameters:,} parameters", loc="left", size=9.5, color=INK)


def _draw_weights(axes: Axes, summary: SweepSummary, size: str) -> None:
    """Draw one size over weights: from hard labels, w = 0, to soft ones, w = 1."""
    lines = [line for line in summary.lines if line.size == size]
    for place, temperature in enumerate(temperatures(summary)):
        points = sorted((line.w, line.name, line) for line in lines if line.temperature in (None, temperature))
        x = [w for w, _, _ in points]
        _draw_points(axes, x, [line for *_, line in points], summary.metrics[0], place, f"T = {temperature:g}")
    _draw_frame(axes, summary)
    ticks = sorted({line.w for line in summary.lines})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("weight w (0: hard labels, 1: soft labels)")


def temperatures(summary: SweepSummary) -> list[float]:
    """Return the temperatures of a sweep, lowest first."""
    return sorted({line.temperature for line in summary.lines if line.temperature is not None})


def _draw_frame(axes: Axes, summary: SweepSummary) -> None:
    """Draw grid, scale and the teacher's line; one that would press all others together is told in words instead."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
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


def _draw_points(axes: Axes, x: Sequence[float], lines: list[KindScores], quality: str, place: int, name: str) -> None:
    """Draw one line over `x` with its band."""
    if not lines:
        return
    colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
    scores = [line.scores[quality] for line in lines]
    axes.plot(x, [score["mean"] for score in scores], color=colour, marker=marker, markersize=5, linewidth=1.6,
              markeredgecolor="white", markeredgewidth=0.6, label=name, zorder=3)  # fmt: skip
    low, high = ([score[end] for score in scores] for end in ("low", "high"))
    if len(lines) == 1:  # a band of no width is not seen
        axes.vlines(x, low, high, color=colour, linewidth=1.2, zorder=2)
    axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
