"""The picture of `wheels bench passes`: quality over teacher passes per generated token, by family of methods."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

import matplotlib
from matplotlib.figure import Figure

from wheels.benchmarks.plot import GRID, INK, PALE, STYLE, metric_name

LOOKS = {
    "deferral": ("#D55E00", "o"),
    "verified": ("#0072B2", "s"),
    "verified-all": ("#56B4E9", "D"),
    "take-back": ("#009E73", "^"),
    "bild": ("#E69F00", "v"),
    "speculative": ("#222222", "P"),
    "lossy": ("#6E6E6E", "X"),
    "cascade": ("#CC79A7", "d"),
    "lookup": ("#8A8A8A", "p"),
}
"""Colours of Okabe and Ito, which colour-blind readers can tell apart, and a mark of its own for each family."""


class Placed(Protocol):
    """A point as far as the picture needs it."""

    @property
    def family(self) -> str:
        """Its family."""

    @property
    def passes(self) -> float:
        """Teacher passes per token."""

    @property
    def metrics(self) -> dict[str, float]:
        """Scores."""


def draw(points: Sequence[Placed], metric: str, title: str) -> bytes:
    """Return the picture as PNG. The first two points are the student and the teacher alone."""
    student, teacher = (point.metrics[metric] for point in points[:2])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 5.4), layout="constrained")
        axes = figure.subplots()
        axes.grid(color=GRID, zorder=0)
        for level, name in ((student, "student alone"), (teacher, "teacher alone, 1 pass per token")):
            axes.axhline(level, color=PALE, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
            axes.annotate(f"{name}: {level:.1f}", (1, level), xytext=(-4, 4), textcoords="offset points", ha="right",
                          xycoords=("axes fraction", "data"), color=INK)  # fmt: skip
        for family in dict.fromkeys(point.family for point in points[2:]):
            mine = sorted((point for point in points if point.family == family), key=lambda point: point.passes)
            colour, marker = LOOKS[family]
            x, y = [point.passes for point in mine], [point.metrics[metric] for point in mine]
            joined = "-" if family == "deferral" else ""
            axes.plot(x, y, linestyle=joined, marker=marker, color=colour, markersize=6.5, markeredgecolor="white",
                      markeredgewidth=0.6, label=family, zorder=4)  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_xlabel("teacher passes per generated token")
        axes.set_ylabel(metric_name(metric))
        axes.legend(frameon=False, loc="center right")
        axes.set_title(title, loc="left", weight="bold", fontsize=11)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
