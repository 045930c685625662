"""The picture of `wheels bench annotation`: quality against the budget, a line a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wheels.benchmarks.core.style import SERIES, Look, Theme, legend, level, line, new_figure
from wheels.metrics import metric_name

LOOKS = {
    "full": Look("student's doubt, assistant checks both", SERIES[0], "o"),
    "assistant": Look("student's doubt, assistant checks the student", SERIES[1], "s"),
    "consistency": Look("student's doubt alone", SERIES[2], "^"),
    "random+filter": Look("at random, assistant checks the teacher", SERIES[3], "D"),
    "random": Look("at random", "#6E6E6E", "X"),
}
APART = 0.012
"""Strategies stand beside each other by this share of the (log) scale, so that none hides another."""


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `annotation.json` holds of the main teacher, assistant and warm-up, which are its first."""
    points, metric = found["points"], found["metrics"][0]
    main = points[0]["teacher"], points[0]["assistant"]
    warm_up = next((each["warm_up"] for each in points if not each["strategy"].startswith("random")), 0.0)
    shown = [
        each
        for each in points
        if (each["teacher"], each["assistant"]) == main
        and each["warm_up"] == (0.0 if each["strategy"].startswith("random") else warm_up)
    ]
    figure = new_figure(f"{found['task']}: what {metric_name(metric)} a budget of annotations buys", 7.6, 5.2)
    axes, budgets = figure.subplots(), sorted({each["budget"] for each in points})
    scale = max(2.0, budgets[-1] / budgets[0])
    for place, (strategy, look) in enumerate(LOOKS.items()):
        mine = sorted((each for each in shown if each["strategy"] == strategy), key=lambda each: each["budget"])
        if mine:
            beside = np.array([each["budget"] for each in mine]) * scale ** (APART * (place - 2))
            values = np.array([each[metric] for each in mine])
            line(axes, theme, look, beside, values.mean(1), low=values.min(1), high=values.max(1))
    level(axes, theme, found["start"][metric], "before any annotation")
    axes.set_xscale("log")
    axes.set_xticks(budgets, list(map(str, budgets)))
    axes.minorticks_off()
    axes.set(
        xlabel="annotations bought",
        ylabel=f"{metric_name(metric)} of the student, {found['test_rows']} test rows",
        title=f"teacher: {main[0]}; bars: lowest to highest of {found['seeds']} seeds",
    )
    legend(figure, [axes], loc="outside lower left", ncols=2)
    return figure
