"""The picture of where the calls go: call rate by place in the output and by frequency of the written token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wheels.benchmarks.core.style import DASHED, Theme, new_figure, percent
from wheels.benchmarks.curve.looks import look

PANELS = {"position": "place of the token in its output (% of its length)", "frequency": "frequency of the token"}


def draw_calls(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `curve.json` holds under `details`, `calls`; the frequencies only where token ids are known."""
    calls = found["details"]["calls"]
    shown = {name: words for name, words in PANELS.items() if calls[name]}
    rates = [value for name in shown for rate in calls[name] for value in (rate["rate"], rate["high"]) if value]
    figure = new_figure(f"Where {calls['rule']} calls the teacher", 5.4 * len(shown), 4.2)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (name, words) in zip(panels, shown.items(), strict=True):
        _draw_rates(axes, calls[name], theme, look(calls["rule"]).colour)
        axes.axhline(calls["overall"], color=theme.ink, linewidth=1.1, linestyle=DASHED, zorder=4)
        axes.set(xlabel=words, ylim=(0.0, min(1.05, 1.18 * max([calls["overall"], 0.01, *rates]))))
    percent(panels[0].yaxis)
    panels[0].set(
        ylabel="share of the tokens that the teacher wrote",
        title=f"dashed: random calls at the same use, {calls['overall']:.1%}",
    )
    return figure


def _draw_rates(axes: Axes, rates: Sequence[Mapping[str, Any]], theme: Theme, colour: str) -> None:
    """Draw one bar a bin, with its interval and its count of tokens."""
    x = np.arange(len(rates))
    rate, low, high = (np.array([one[name] for one in rates], dtype=float) for name in ("rate", "low", "high"))
    axes.bar(x, np.nan_to_num(rate), width=0.8, color=theme.shade(colour), alpha=0.75, zorder=2)
    axes.vlines(x, low, high, color=theme.ink, linewidth=1.3, zorder=3)
    names = [one["name"].replace("%", "") if len(rates) > 6 else one["name"] for one in rates]
    axes.set_xticks(x, [f"{name}\n{_count(one['tokens'])}" for name, one in zip(names, rates, strict=True)])
    axes.tick_params(axis="x", length=0, labelsize=8)
    axes.grid(visible=False, axis="x")


def _count(tokens: int) -> str:
    """Return a count of tokens in few characters."""
    return f"n={tokens}" if tokens < 1_000 else f"n={tokens / 1000:.0f}k"
