"""The picture of how budgets were kept: asked against measured use, and the use of single outputs."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from wheels.benchmarks.curve.plot import GRID, INK, PALE, STYLE, as_png, look, runs
from wheels.benchmarks.curve.summary import QUANTILES, Curve
from wheels.decoding.methods.rules import RULES


def draw_adherence(curve: Curve) -> bytes:
    """Return the picture as PNG: every rule on the left, the spread over the first rule's outputs on the right."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.6, 4.6), layout="constrained")
        whole, single = figure.subplots(1, 2)
        top = min(1.0, 1.12 * max(curve.interior + [point.use for point in curve.points if point.budget < 1.0]))
        for axes in (whole, single):
            axes.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
            axes.set_xlim(0.0, top)
            axes.grid(color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_xlabel(f"teacher budget asked for ({curve.mode} mode)")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        _draw_whole(whole, curve, top)
        _draw_single(single, curve)
        return as_png(figure)


def _draw_whole(axes: Axes, curve: Curve, top: float) -> None:
    """Draw each rule's measured use over the whole data: the mean over seeds as a line, each seed as a mark."""
    for rule in curve.rules:
        lines = [[point for point in curve.of(rule, seed) if 0.0 < point.budget < 1.0] for seed in curve.seeds[rule]]
        use_SB = np.array([[point.use for point in line] for line in lines])
        shape = look(rule)
        thin = shape | {"marker": "", "linewidth": 0.6 * shape["linewidth"]}
        for run in runs(curve.interior):
            axes.plot(curve.interior[run], use_SB.mean(0)[run], **thin)
        for use_B in use_SB:
            axes.plot(curve.interior, use_B, **(shape | {"linestyle": "none", "markersize": 5}))
        axes.plot([], [], label=rule, **shape)
    axes.set_ylim(0.0, top)
    axes.set_ylabel("measured teacher use, over all outputs")
    axes.set_title("all outputs together: a mark per seed, dashed: as asked", loc="left", size=9.5, color=INK)
    axes.legend(frameon=False, loc="upper left", handlelength=2.4, labelspacing=0.35)


def _draw_single(axes: Axes, curve: Curve) -> None:
    """Draw how the first rule's use spreads over single outputs: median, middle half, and the range of nine in ten."""
    rule, found = curve.rules[0], curve.adherence[curve.rules[0]]["use_quantiles"]
    shares_QB = np.array([found[f"{budget:g}"] for budget in curve.interior]).T
    low, lower, middle, upper, high = shares_QB
    colour = RULES[rule].color
    axes.vlines(curve.interior, low, high, color=colour, linewidth=2.0, alpha=0.55, zorder=3)
    axes.vlines(curve.interior, lower, upper, color=colour, linewidth=9.0, alpha=0.45, zorder=3)
    axes.plot(curve.interior, middle, "o", color=colour, markersize=6, markeredgecolor="white", zorder=5)
    axes.set_ylim(0.0, min(1.0, 1.08 * max(float(high.max()), *curve.interior)))
    axes.set_ylabel("teacher use within one output")
    words = (
        f"{rule}, single outputs: dot median, thick middle half,\nthin {QUANTILES[0]}th to {QUANTILES[-1]}th percentile"
    )
    axes.set_title(words, loc="left", size=9.5, color=INK)
    axes.spines["left"].set_color(PALE)
