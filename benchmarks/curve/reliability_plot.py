"""The picture of reliability: mean true regret over mean predicted gain, by tenths of the predictions."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from wheels.benchmarks.curve.diagnostics import Predicted
from wheels.benchmarks.curve.plot import GRID, INK, PALE, STYLE, as_png
from wheels.decoding.methods.rules import RULES


def draw_reliability(predicted: Predicted) -> bytes:
    """Return the picture as PNG."""
    colour, clipped = RULES[predicted.rule].color, math.isfinite(predicted.clip)
    gain, regret, low, high = (
        np.array([getattr(group, name) for group in predicted.found.groups])
        for name in ("gain", "regret", "low", "high")
    )
    ends = [min(0.0, gain.min()), gain.max()]
    words = f"regret counted for at most {predicted.clip:g} nats" if clipped else "regret"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 5.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(ends, ends, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1, label="truth as predicted")
        axes.vlines(gain, low, high, color=colour, linewidth=1.6, zorder=3)
        axes.plot(gain, regret, "o", color=colour, markersize=6, markeredgecolor="white",
                  markeredgewidth=0.6, zorder=4, label=f"{predicted.rule}: {words}, with 95% intervals")  # fmt: skip
        if clipped:
            whole = [group.regret for group in predicted.whole.groups]
            axes.plot(gain, whole, "o", color="white", markeredgecolor=PALE, markersize=5, zorder=2,
                      label="the same, not cut there")  # fmt: skip
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("predicted gain of a call, mean of a tenth of the states (nats)")
        axes.set_ylabel("true regret of the student's token, mean (nats)")
        figure.legend(frameon=False, loc="outside upper left", labelspacing=0.3)
        return as_png(figure)
