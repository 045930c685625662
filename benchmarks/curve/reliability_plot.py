"""The picture of reliability: mean true regret over mean predicted gain, by tenths of the predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from wheels.benchmarks.core.style import DASHED, DOTTED, Look, Theme, legend, line, new_figure
from wheels.benchmarks.curve.looks import look


def draw_reliability(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `curve.json` holds under `details`, `reliability`."""
    predicted = found["details"]["reliability"]
    figure = new_figure("Predicted gain and true regret", 6.6, 5.0)
    axes = figure.subplots()
    gain, regret, low, high = (
        [group[name] for group in predicted["found"]["groups"]] for name in ("gain", "regret", "low", "high")
    )
    ends = [min(0.0, *gain), max(gain)]
    axes.plot(ends, ends, color=theme.ink, linewidth=1.0, linestyle=DASHED, zorder=1, label="exactly as predicted")
    counted = f", counted for at most {predicted['clip']:g} nats" if predicted["clip"] else ""
    shape = replace(look(predicted["rule"]), label=f"{predicted['rule']}{counted}; 95% intervals", dashes="")
    line(axes, theme, shape, gain, regret, low=low, high=high)
    if predicted["clip"]:
        whole = [group["regret"] for group in predicted["whole"]["groups"]]
        line(axes, theme, Look("counted in full", theme.pale, dashes=DOTTED), gain, whole)
    axes.set(
        xlabel="predicted gain of a call (nats, mean of a tenth of the states)",
        ylabel="true regret of the student's token (nats, mean)",
    )
    legend(axes, [axes], loc="upper left")
    return figure
