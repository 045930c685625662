"""The picture of `wheels bench rationales`: the accuracy of each kind of student beside that of the controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from wheels.benchmarks.core.style import DOTTED, SERIES, Theme, new_figure
from wheels.metrics import metric_name

WORDS = {
    "none": "no rationale",
    "given": "given rationales",
    "random": "at random",
    "untrained-teacher": "untrained teacher's",
    "saliency": "saliency",
    "saliency-per-token": "saliency per token",
    "gradient-x-input": "gradient x input",
    "integrated-gradients": "integrated gradients",
}
CONTROLS = ("none", "given", "random", "untrained-teacher")


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `rationales.json` holds: a line a kind of student, the controls first."""
    order = list(WORDS)
    lines = sorted(found["students"], key=lambda line: (order.index(line["name"]), line["k"]))
    figure = new_figure(f"{found['task']}: learning to name the words that mattered", 7.6, 1.5 + 0.32 * len(lines))
    axes = figure.subplots()
    for place, line in enumerate(lines):
        control = line["name"] in CONTROLS
        colour = theme.shade("#7A7A7A" if control else SERIES[0])
        axes.hlines(place, line["low"], line["high"], color=colour, linewidth=2.0, zorder=3)
        axes.plot(line["accuracy"], place, "s" if control else "o", color=colour, markersize=8, zorder=4)
        axes.text(
            1.02,
            place,
            f"{line['accuracy']:.1f}",
            transform=axes.get_yaxis_transform(),
            va="center",
            weight="bold" if line["accuracy"] == max(each["accuracy"] for each in lines) else "normal",
        )
    for line in lines:
        if line["name"] == "none":
            axes.axvline(line["accuracy"], color=theme.pale, linewidth=1.1, linestyle=DOTTED, zorder=1)
    names = [
        WORDS[line["name"]] + (f", {line['k']} {'word' if line['k'] == 1 else 'words'}" if line["k"] else "")
        for line in lines
    ]
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set(
        xlabel=f"{metric_name(found['metric'])}, % of {found['n']} test rows",
        title=f"mean and 95% interval over rows and {found['seeds']} seeds; "
        f"the teacher itself: {found['teacher']['accuracy']:.1f}",
    )
    return figure
