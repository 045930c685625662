"""The picture of `wheels bench passes`: quality over teacher passes per generated token, by family of methods."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from wheels.benchmarks.core.bootstrap import APART
from wheels.benchmarks.curve.plot import GRID, INK, PALE, STYLE, metric_name, runs
from wheels.benchmarks.passes.settings import RULED

LOOKS = {
    "deferral": ("#D55E00", "o"),
    "verified": ("#0072B2", "s"),
    "verified-all": ("#006D2C", "D"),
    "priced": ("#0072B2", "o"),
    "tuned": ("#000000", "*"),
    "take-back": ("#009E73", "^"),
    "bild": ("#E69F00", "v"),
    "speculative": ("#222222", "P"),
    "lossy": ("#6E6E6E", "X"),
    "cascade": ("#CC79A7", "d"),
    "lookup": ("#8A8A8A", "p"),
}
"""Colours of Okabe and Ito, which colour-blind readers can tell apart, and a mark of its own for each family."""


SHADES = {"verified": ("#9ECAE1", "#08306B"), "verified-all": ("#A1D99B", "#00441B"), "priced": ("#56B4E9", "#0072B2")}
"""First and last shade of a family with several curves."""


KEY = f"bands: 95%, rows and seeds\nno line: more than {APART:g} apart, not measured"


class Placed(Protocol):
    """A point as far as the picture needs it."""

    @property
    def family(self) -> str:
        """Its family."""

    @property
    def line(self) -> str:
        """Its curve."""

    @property
    def passes(self) -> float:
        """Teacher passes per token."""

    @property
    def metrics(self) -> dict[str, float]:
        """Scores."""


Bands = list[list[Mapping[str, Any]]]


def draw(points: Sequence[Placed], bands: Sequence[Mapping[str, Any]], metric: str, title: str) -> bytes:
    """Return the picture as PNG: on the left every way beside the others, on the right the verified forms of deferral.

    Args:
        points: means over seeds; the first two are the student and the teacher alone.
        bands: the rule-driven curves with their 95% intervals (`PassCurves.bands`).
        metric: on the y axis.
        title: over the picture.
    """
    mine = [band for band in bands if band["metric"] == metric]
    lines: Bands = [[band for band in mine if band["line"] == name] for name in dict.fromkeys(b["line"] for b in mine)]
    verified = [line for line in lines if line[0]["family"].startswith("verified")]
    others = [line for line in lines if line not in verified]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.8, 5.8) if verified else (8.6, 5.4), layout="constrained")
        panels = figure.subplots(1, 2 if verified else 1, sharex=True, sharey=True, squeeze=False)[0]
        _draw_fixed(panels[0], points[2:], metric)
        _draw_lines(panels[0], others)
        if verified:
            _draw_lines(panels[1], [line for line in others if line[0]["family"] == "deferral"] + verified)
        for axes in panels:
            _draw_ends(axes, points, metric)
            _add_key(axes, points[0].metrics[metric], KEY if lines else None)
        panels[0].set_ylabel(metric_name(metric))
        figure.suptitle(title, x=0.008, ha="left", weight="bold", size=11)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_ends(axes: Axes, points: Sequence[Placed], metric: str) -> None:
    """Draw the levels of both models alone, and what all panels share."""
    student, teacher = (point.metrics[metric] for point in points[:2])
    # Each name on the side of its line where no curve is.
    sides = {"student alone": (student, -4, "top"), "teacher alone, 1 pass per token": (teacher, 4, "bottom")}
    for name, (level, shift, edge) in sides.items():
        axes.axhline(level, color=PALE, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(f"{name}: {level:.1f}", (1, level), xytext=(-4, shift), textcoords="offset points", ha="right",
                      va=edge, xycoords=("axes fraction", "data"), color=INK, zorder=6)  # fmt: skip
    axes.grid(color=GRID, zorder=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("teacher passes per generated token")


def _add_key(axes: Axes, student: float, title: str | None) -> None:
    """Name the curves in the free lower right corner, just above the student's line."""
    if axes.get_legend_handles_labels()[0]:
        level = axes.transLimits.transform((0.0, student))[1]
        axes.legend(loc="lower right", fontsize=8.5, bbox_to_anchor=(1.0, max(0.0, level)), facecolor="white",
                    edgecolor="none", framealpha=0.85, labelspacing=0.35, title=title, title_fontsize=8)  # fmt: skip


def _draw_fixed(axes: Axes, points: Sequence[Placed], metric: str) -> None:
    """Draw the settings that no rule drives, a thin line through each curve of them."""
    fixed = [point for point in points if point.family not in RULED]
    named: set[str] = set()
    for line in dict.fromkeys(point.line for point in fixed):
        mine = sorted((point for point in fixed if point.line == line), key=lambda point: point.passes)
        colour, marker = LOOKS[mine[0].family]
        x, y = [point.passes for point in mine], [point.metrics[metric] for point in mine]
        look: Any = {"linestyle": ":", "linewidth": 0.9, "marker": marker, "markersize": 6, "color": colour}
        for run in runs(x):
            label = None if mine[0].family in named else mine[0].family
            named.add(mine[0].family)
            axes.plot(x[run], y[run], label=label, markeredgecolor="white", markeredgewidth=0.6, zorder=4, **look)


def _draw_lines(axes: Axes, lines: Bands) -> None:
    """Draw the curves that a rule drives, each with its band; several of one family in shades of one colour."""
    for line in lines:
        family = line[0]["family"]
        same = [other for other in lines if other[0]["family"] == family]
        colour, marker = LOOKS[family]
        if len(same) > 1:
            shades = LinearSegmentedColormap.from_list(family, SHADES[family])
            colour = to_hex(shades(same.index(line) / (len(same) - 1)))
        x, y, low, high = (
            [band[name] for band in sorted(line, key=lambda band: band["passes"])]
            for name in ("passes", "value", "low", "high")
        )
        look: Any = {"marker": marker, "markersize": 9 if marker == "*" else 4.5, "color": colour, "linewidth": 1.6}
        for run in runs(x):
            label = line[0]["line"] if run.start == 0 else None
            axes.plot(x[run], y[run], label=label, markeredgecolor="white", markeredgewidth=0.5, zorder=5, **look)
            axes.fill_between(x[run], low[run], high[run], color=colour, alpha=0.13, linewidth=0, zorder=2)
