"""The picture of `wheels bench rationales`: accuracy against the length of a rationale, and the controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wheels.benchmarks.curve.plot import GRID, INK, PALE, STYLE, as_png, metric_name

# Okabe and Ito's palette, as in the other pictures.
COLOURS = {
    "saliency": "#D55E00",
    "saliency-per-token": "#E69F00",
    "gradient-x-input": "#0072B2",
    "integrated-gradients": "#009E73",
    "random": "#56B4E9",
    "untrained-teacher": "#CC79A7",
    "given": "#332288",
    "none": "#6E6E6E",
}
MARKERS = {
    "saliency": "o", "saliency-per-token": "D", "gradient-x-input": "s", "integrated-gradients": "^", "random": "X",
    "untrained-teacher": "v",
}  # fmt: skip
WORDS = {
    "none": "no rationale",
    "given": "given rationales",
    "random": "random words",
    "untrained-teacher": "untrained teacher's",
}


def draw(report: Mapping[str, Any]) -> bytes:
    """Return the picture as PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 4.6), layout="constrained")
        axes = figure.subplots()
        lines: dict[str, list[Mapping[str, Any]]] = {}
        for line in report["students"]:
            lines.setdefault(line["name"], []).append(line)
        lengths = sorted({line["k"] for line in report["students"] if line["k"]})
        # Variants of one length stand beside each other, not on top of each other.
        single = [name for name, points in lines.items() if len(points) == 1 and points[0]["k"]]
        for name, points in lines.items():
            if not points[0]["k"]:
                _draw_level(axes, name, points[0])
            elif name in single:
                _draw_point(axes, name, points[0], (single.index(name) - (len(single) - 1) / 2) * 0.16)
            else:
                _draw_line(axes, name, points)
        axes.set_xticks(lengths)
        axes.set_xlim(min(lengths) - 0.6, max(lengths) + 0.6)
        axes.set_xlabel("words of a rationale")
        axes.set_ylabel(f"{metric_name(report['metric'])}, % of {report['n']} test rows")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        title = "mean and 95% interval over\nrows and seeds"
        look: Any = {"frameon": False, "labelcolor": INK, "fontsize": 9, "title_fontsize": 8, "alignment": "left"}
        key = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title=title, **look)
        key.get_title().set_color(PALE)
        teacher = report["teacher"]["accuracy"]
        axes.set_title(
            f"{report['seeds']} students each; the teacher itself has {teacher:.1f}", loc="left", size=9.5, color=INK
        )
        figure.suptitle(
            f"{report['task']}: learning to name the words that mattered", x=0.008, ha="left", weight="bold", size=11.5
        )
        return as_png(figure)


def _draw_level(axes: Axes, name: str, line: Mapping[str, Any]) -> None:
    """Draw a control that has no length."""
    axes.axhline(
        line["accuracy"], color=COLOURS[name], linewidth=1.6, linestyle=(0, (4, 2)), label=WORDS[name], zorder=2
    )
    axes.axhspan(line["low"], line["high"], color=COLOURS[name], alpha=0.08, linewidth=0, zorder=1)


def _draw_point(axes: Axes, name: str, line: Mapping[str, Any], shift: float) -> None:
    """Draw a kind of one length, beside that length."""
    bars = [[line["accuracy"] - line["low"]], [line["high"] - line["accuracy"]]]
    look: Any = {"color": COLOURS[name], "marker": MARKERS[name], "markersize": 6, "capsize": 3, "linewidth": 1.4}
    label = WORDS.get(name, name)
    axes.errorbar([line["k"] + shift], [line["accuracy"]], yerr=bars, linestyle="none", label=label, zorder=4, **look)


def _draw_line(axes: Axes, name: str, points: list[Mapping[str, Any]]) -> None:
    """Draw a kind of several lengths."""
    points = sorted(points, key=lambda point: point["k"])
    lengths = [point["k"] for point in points]
    axes.plot(lengths, [point["accuracy"] for point in points], color=COLOURS[name], marker=MARKERS[name], markersize=6,
              linewidth=2.2, label=WORDS.get(name, name), zorder=5)  # fmt: skip
    low, high = [point["low"] for point in points], [point["high"] for point in points]
    axes.fill_between(lengths, low, high, color=COLOURS[name], alpha=0.18, linewidth=0, zorder=2)
