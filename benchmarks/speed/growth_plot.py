"""The picture of how a decode step's cost grows (`wheels.benchmarks.speed.growth`)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from wheels.benchmarks.core.style import DASHED, Theme, legend, line, new_figure, nth


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `growth.json` holds: a token's time by batch and by length, and its distance to the bound."""
    steps = found["steps"]
    figure = new_figure("What a token costs the teacher alone, milliseconds of one processor", 11.0, 4.6)
    by_batch, by_length = figure.subplots(1, 2, sharey=True)
    shortest = min(step["length"] for step in steps)
    _draw(by_batch, theme, [step for step in steps if step["length"] == shortest], "batch")
    _draw(by_length, theme, [step for step in steps if step["batch"] == 1], "length")
    by_batch.set_xlabel(f"batch size, behind {shortest} tokens")
    by_length.set_xlabel("tokens of the text so far, batch size 1")
    by_batch.set_ylabel("milliseconds a token")
    legend(figure, [by_batch, by_length], "pale: the machine's bound", loc="outside right center")
    return figure


def _draw(axes: Axes, theme: Theme, steps: list[dict[str, Any]], what: str) -> None:
    """Draw a line for each model and kind of weights, and its bound."""
    groups = groupby(steps, key=lambda step: (step["parameters"], step["weights"]))
    for place, ((parameters, weights), found) in enumerate(groups):
        each = list(found)
        look, x = nth(place, f"{parameters / 1e6:.0f}M, {weights}"), [step[what] for step in each]
        line(axes, theme, look, x, [step["ms"] / step["batch"] for step in each])
        axes.plot(x, [step["bound_ms"] / step["batch"] for step in each], color=theme.shade(look.colour), lw=1.0,
                  ls=DASHED, alpha=0.5, zorder=2)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({step[what] for step in steps}), sorted({str(step[what]) for step in steps}, key=int))
    axes.xaxis.set_minor_locator(NullLocator())
