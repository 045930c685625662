"""The picture of `wheels bench annotation`: quality against the budget, a line a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from wheels.benchmarks.curve.plot import GRID, INK, PALE, STYLE, as_png, metric_name

NAMES = {
    "full": "(I) + assistant on student and teacher",
    "assistant": "(I) + assistant on student",
    "consistency": "(I): the student's doubt",
    "random+filter": "random + assistant on teacher",
    "random": "random",
}
# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/); every line has its own mark besides.
LOOKS = {
    "full": ("#D55E00", "o"),
    "assistant": ("#0072B2", "s"),
    "consistency": ("#009E73", "^"),
    "random+filter": ("#E69F00", "D"),
    "random": ("#6E6E6E", "X"),
}


def draw(summary: Mapping[str, Any], teacher: str, assistant: str, warm_up: float) -> bytes:
    """Return the picture as PNG, of the main teacher, assistant and warm-up; a band from lowest to highest seed."""
    metric, budgets = summary["metrics"][0], sorted({line["budget"] for line in summary["points"]})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        axes = figure.subplots()
        for strategy, name in NAMES.items():
            lines = [line for line in summary["points"] if (line["strategy"], line["teacher"], line["assistant"]) ==
                     (strategy, teacher, assistant) and line["warm_up"] in (warm_up, 0.0)
                     and (line["warm_up"] == warm_up or strategy.startswith("random"))]  # fmt: skip
            if not lines:
                continue
            lines.sort(key=lambda line: line["budget"])
            spent = [line["budget"] for line in lines]
            values = np.array([line[metric] for line in lines])
            colour, mark = LOOKS[strategy]
            axes.plot(spent, values.mean(1), color=colour, marker=mark, markeredgecolor="white", label=name,
                      linewidth=2.2 if strategy == "full" else 1.4)  # fmt: skip
            axes.vlines(spent, values.min(1), values.max(1), color=colour, linewidth=0.8)
            axes.fill_between(spent, values.min(1), values.max(1), color=colour, alpha=0.14, linewidth=0)
        axes.axhline(summary["start"][metric], color=PALE, linewidth=1.0, linestyle=(0, (1, 2)))
        axes.annotate("before any annotation", (budgets[0], summary["start"][metric]), xytext=(0, 4),
                      textcoords="offset points", color=INK, size=8.5)  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(budgets, [str(budget) for budget in budgets])
        axes.minorticks_off()
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("annotations bought")
        axes.set_ylabel(f"{metric_name(metric)} of the student, {summary['test_rows']} test rows")
        words = f"teacher: {teacher}; band: lowest to highest of {summary['seeds']} seeds"
        axes.set_title(words, loc="left", size=9.5, color=INK)
        figure.suptitle(f"{summary['task']}: what {metric_name(metric)} a budget of annotations buys", x=0.008,
                        ha="left", weight="bold", size=11)  # fmt: skip
        figure.legend(frameon=False, loc="outside lower center", ncols=2)
        return as_png(figure)
