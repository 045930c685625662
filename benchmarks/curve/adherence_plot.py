"""The picture of how budgets were kept: asked against measured use, and the use of single outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wheels.benchmarks.core.style import DASHED, Theme, legend, new_figure, percent
from wheels.benchmarks.curve.looks import by_seed, look, weight
from wheels.benchmarks.curve.summary import QUANTILES, interior


def draw_adherence(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `curve.json` holds: every rule's error on the left, the spread over single outputs on the right."""
    figure, budgets = new_figure("Measured use against the budget", 10.4, 4.8), interior(found)
    whole, single = figure.subplots(1, 2)
    for axes in (whole, single):
        axes.set_xticks(range(len(budgets)), [f"{budget:.0%}" for budget in budgets])
        axes.set_xlabel(f"teacher budget asked for ({found['mode']} mode)")
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        percent(axes.yaxis)
    _draw_errors(whole, found, theme)
    _draw_single(single, found, theme)
    legend(figure, [whole], loc="outside right center")
    return figure


def _draw_errors(axes: Axes, found: Mapping[str, Any], theme: Theme) -> None:
    """Draw measured minus asked use: one column a budget, one mark a rule and seed."""
    places, worst = len(found["rules"]), 0.02
    for place, rule in enumerate(found["rules"]):
        shift = 0.8 * ((place + 0.5) / places - 0.5)
        errors_IP = np.array([[point["use"] - point["budget"] for point in one] for one in by_seed(found, rule)])
        columns_IP = np.broadcast_to(np.arange(errors_IP.shape[1]) + shift, errors_IP.shape)
        shape, size = look(rule), weight(found, rule).size
        look_of: Any = {"color": theme.shade(shape.colour), "ms": size, "label": shape.label, "clip_on": False}
        axes.plot(columns_IP.ravel(), errors_IP.ravel(), shape.marker, **look_of)
        worst = max(worst, float(np.abs(errors_IP).max()))
    for column in range(0, len(interior(found)), 2):
        axes.axvspan(column - 0.5, column + 0.5, color=theme.grid, alpha=0.4, zorder=0, linewidth=0)
    axes.axhline(0.0, color=theme.ink, linewidth=1.0, zorder=1)
    axes.set(
        ylim=(-1.15 * worst, 1.15 * worst),
        xlim=(-0.5, len(interior(found)) - 0.5),
        ylabel="measured use minus budget",
        title="All outputs together: a mark per rule and seed",
    )


def _draw_single(axes: Axes, found: Mapping[str, Any], theme: Theme) -> None:
    """Draw how the first rule's use spreads over single outputs: median, middle half, and the range of nine in ten."""
    rule, budgets = found["rules"][0], interior(found)
    quantiles = found["adherence"][rule]["use_quantiles"]
    low, lower, middle, upper, high = np.array([quantiles[f"{budget:g}"] for budget in budgets]).T
    columns, colour = range(len(budgets)), theme.shade(look(rule).colour)
    axes.vlines(columns, low, high, color=colour, linewidth=2.0, alpha=0.55, zorder=3)
    axes.vlines(columns, lower, upper, color=colour, linewidth=9.0, alpha=0.45, zorder=3)
    axes.plot(columns, middle, "o", color=colour, markersize=6, zorder=5)
    asked: Any = {"color": theme.ink, "ls": DASHED, "lw": 1.0, "zorder": 4}
    axes.hlines(budgets, np.array(columns) - 0.35, np.array(columns) + 0.35, **asked)
    words = f"Single outputs of {rule}: dot median, thick middle half,\n"
    words += f"thin {QUANTILES[0]}th to {QUANTILES[-1]}th percentile; dashed: as asked"
    axes.set(
        ylim=(0.0, min(1.0, 1.08 * max(float(high.max()), *budgets))),
        xlim=(-0.5, len(budgets) - 0.5),
        ylabel="teacher use within one output",
        title=words,
    )
