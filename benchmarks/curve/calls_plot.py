"""The picture of where the calls go: call rate by place in the output and by frequency of the written token."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from wheels.benchmarks.curve.calls import Rate
from wheels.benchmarks.curve.plot import GRID, INK, STYLE, as_png
from wheels.decoding.methods.rules import RULES


def draw_calls(rule: str, overall: float, position: Sequence[Rate], frequency: Sequence[Rate]) -> bytes:
    """Return the picture as PNG.

    Args:
        rule: whose calls these are.
        overall: the call rate over all tokens, which random calls would have everywhere.
        position: rates by place.
        frequency: rates by frequency; empty where token ids are not known.
    """
    panels = [
        (position, "place of the token in its output (% of its length)"),
        (frequency, "frequency of the written token"),
    ]
    shown = [(rates, name) for rates, name in panels if rates]
    known = [value for rates, _ in shown for rate in rates for value in (rate.rate, rate.high) if not np.isnan(value)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.8 * len(shown), 4.3), layout="constrained")
        for axes, (rates, name) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            _draw_rates(axes, rates, RULES[rule].color, overall)
            axes.set_ylim(0.0, min(1.05, 1.18 * max([overall, 0.01, *known])))
            axes.set_xlabel(name)
            axes.set_ylabel("share of the tokens that the teacher wrote")
        return as_png(figure)


def _draw_rates(axes: Axes, rates: Sequence[Rate], colour: str, overall: float) -> None:
    """Draw one bar a bin, with its interval and its count of tokens, and the rate of random calls across."""
    x = np.arange(len(rates))
    rate, low, high = (np.array([getattr(one, name) for one in rates]) for name in ("rate", "low", "high"))
    axes.bar(x, np.nan_to_num(rate), width=0.8, color=[0.78 * part + 0.22 for part in to_rgb(colour)], zorder=2)
    there = ~np.isnan(low)
    axes.vlines(x[there], low[there], high[there], color=INK, linewidth=1.3, zorder=3)
    axes.axhline(overall, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=4)
    words = f"random calls at the same use: {overall:.1%}"
    axes.set_title(words + " (dashed)", loc="left", size=9.5, color=INK)
    few = len(rates) > 6
    names = [one.name.replace("%", "") if few else one.name for one in rates]
    axes.set_xticks(x, [f"{name}\n{_count(one.tokens)}" for name, one in zip(names, rates, strict=True)])
    axes.tick_params(axis="x", length=0, labelsize=8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _count(tokens: int) -> str:
    """Return a count of tokens in few characters."""
    return f"n={tokens}" if tokens < 10_000 else f"n={tokens / 1000:.0f}k"
