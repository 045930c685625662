"""The picture of `wheels bench rationales`: the accuracy of each kind of student beside that of the controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from wheels.benchmarks.core.style import DOTTED, SERIES, Look, Theme, draw_row, name_rows, new_figure
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
    best = max(line["accuracy"] for line in lines)
    for row, line in enumerate(lines):
        look = Look("", "#7A7A7A", "s") if line["name"] in CONTROLS else Look("", SERIES[0])
        ends = [line[end] for end in ("low", "accuracy", "high")]
        draw_row(axes, theme, look, row, ends, f"{line['accuracy']:.1f}", best=line["accuracy"] == best)
        if line["name"] == "none":
            axes.axvline(line["accuracy"], color=theme.pale, lw=1.1, ls=DOTTED, zorder=1)
    names = [
        WORDS[line["name"]] + (f", {line['k']} {'word' if line['k'] == 1 else 'words'}" if line["k"] else "")
        for line in lines
    ]
    name_rows(axes, names)
    axes.set(
        xlabel=f"{metric_name(found['metric'])}, % of {found['n']} test rows",
        title=f"mean and 95% interval over rows and {found['seeds']} seeds; "
        f"the teacher itself: {found['teacher']['accuracy']:.1f}",
    )
    return figure
