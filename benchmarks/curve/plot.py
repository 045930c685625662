"""The picture of a curve: quality against measured teacher use, and how well each rule kept its budgets."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from wheels.benchmarks.core.bootstrap import APART, LEAST_GAP, Floats
from wheels.benchmarks.curve.summary import Curve
from wheels.decoding.methods.rules import RULES

OURS = ("learned", "regret")
"""The rules whose lines are drawn heavy."""
METRIC_NAMES = {"bleu": "BLEU", "chrf": "chrF", "exact": "exact match", "equation": "right answers"}
INK, PALE, GRID = "#222222", "#8A8A8A", "#EBEBEB"
STYLE: Any = {
    "font.size": 9.5,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.dpi": 160,
    "savefig.dpi": 160,
}


def metric_name(metric: str) -> str:
    """Return a metric's name as it is written in print."""
    return METRIC_NAMES.get(metric, metric.replace("rouge", "ROUGE-"))


def draw(curve: Curve) -> bytes:
    """Return the picture as PNG: quality over measured use on the left, the error of use over budgets on the right."""
    with matplotlib.rc_context(STYLE):
        # A figure of its own, not pyplot's: no window and no state is left behind.
        figure = Figure(figsize=(11.6, 5.3), layout=ConstrainedLayoutEngine(wspace=0.06))
        if curve.interior:
            quality, adherence = figure.subplots(1, 2, width_ratios=(2.3, 1))
            _draw_adherence(adherence, curve)
        else:
            quality = figure.subplots()
        _draw_quality(quality, curve)
        title = f"{curve.task}: {metric_name(curve.quality)} against teacher use, n = {curve.sentences}"
        figure.suptitle(title, x=0.008, ha="left", weight="bold", size=11.5)
        return as_png(figure)


def as_png(figure: Figure) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def mean_curve(curve: Curve, rule: str) -> tuple[Floats, Floats, Floats, Floats]:
    """Return a rule's use and quality (means over seeds, by budget), and the lowest and highest seed's quality.

    The student's and the teacher's own points are the ends, whatever budgets were asked for.
    """
    lines = [[point for point in curve.of(rule, seed) if 0.0 < point.budget < 1.0] for seed in curve.seeds[rule]]
    use_SB = np.array([[0.0, *(point.use for point in line), 1.0] for line in lines])
    student, teacher = curve.student["quality"], curve.teacher["quality"]
    quality_SB = np.array([[student, *(point.quality for point in line), teacher] for line in lines])
    order_B = np.argsort(use_SB.mean(0), kind="stable")
    means = (use_SB.mean(0), quality_SB.mean(0), quality_SB.min(0), quality_SB.max(0))
    use_B, mean_B, low_B, high_B = (values_B[order_B] for values_B in means)
    return use_B, mean_B, low_B, high_B


def runs(points: ArrayLike, apart: float = APART) -> list[slice]:
    """Return the runs of points in rising order between which a line may be drawn: neighbours at most `apart` apart.

    To one more decimal: budgets 0.1 apart are kept to some hundredths, and their points are neighbours all the same.
    """
    breaks = np.flatnonzero(np.diff(np.asarray(points, dtype=np.float64)) >= 1.5 * apart) + 1
    return [slice(*ends) for ends in itertools.pairwise([0, *breaks.tolist(), np.size(points)])]


def look(rule: str, size: float = 1.0) -> dict[str, Any]:
    """Return how a rule's line is drawn: ours heavy, the oracle dashed."""
    ours = rule in OURS
    return {
        "color": RULES[rule].color,
        "linestyle": (0, (4, 2)) if RULES[rule].needs_teacher else "-",
        "linewidth": (2.4 if ours else 1.4) * size,
        "marker": RULES[rule].mark,
        "markersize": 6 if ours else 4.8,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "zorder": {"learned": 6, "regret": 5}.get(rule, 3),
    }


def _draw_quality(axes: Axes, curve: Curve) -> None:
    """Draw every rule's quality over measured use, between the student's and the teacher's lines."""
    student, teacher = curve.student["quality"], curve.teacher["quality"]
    levels = [student, teacher]
    for rule in curve.rules if curve.interior else []:
        use_B, mean_B, low_B, high_B = mean_curve(curve, rule)
        for run in runs(use_B):
            axes.plot(use_B[run], mean_B[run], **look(rule))
            if len(curve.seeds[rule]) > 1:
                band: dict[str, Any] = {"color": RULES[rule].color, "alpha": 0.18, "linewidth": 0, "zorder": 2}
                axes.fill_between(use_B[run], low_B[run], high_B[run], **band)
        levels += [*low_B, *high_B]
    for level in (student, teacher):
        axes.axhline(level, color=PALE, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
    axes.plot([0, 1], [student, teacher], "o", color=INK, markersize=7, zorder=7, clip_on=False)
    span = max(max(levels) - min(levels), 1e-9)
    axes.set_ylim(min(levels) - 0.075 * span, max(levels) + 0.075 * span)
    axes.set_xlim(0.0, 1.0)
    axes.set_xticks(np.linspace(0.0, 1.0, 11))
    name = metric_name(curve.quality)
    near: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "color": INK, "zorder": 8}
    axes.annotate(f"teacher alone: {teacher:.1f} {name}", (0.008, teacher), **near)
    below = near | {"xytext": (0, -4), "ha": "right", "va": "top"}
    axes.annotate(f"student alone: {student:.1f} {name}", (0.985, student), **below)
    axes.set_xlabel("measured teacher use: share of the tokens that the teacher wrote")
    axes.set_ylabel(name)
    names = f"student: {curve.student['name']}; teacher: {curve.teacher['name']}"
    axes.set_title(
        names if len(names) <= 90 else names[:89] + "\N{HORIZONTAL ELLIPSIS}", loc="left", size=9.5, color=INK
    )
    _add_gap_axis(axes, student, teacher)
    if curve.interior:
        _add_key(axes, curve)


def _add_gap_axis(axes: Axes, student: float, teacher: float) -> None:
    """Put the share of the gap on the right, where there is a gap to speak of."""
    gap = teacher - student
    if gap < LEAST_GAP:
        return
    to_share, to_quality = (lambda quality: (quality - student) / gap), (lambda share: student + share * gap)
    right = axes.secondary_yaxis("right", functions=(to_share, to_quality))
    shares = np.arange(0.0, 1.01, 0.2)
    right.set_yticks(shares)
    # The lines across belong to this axis: a rule's share is read off them.
    axes.hlines(student + shares[1:-1] * gap, 0.0, 1.0, color=GRID, linewidth=0.8, zorder=0)
    right.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    right.set_ylabel("share of the student-teacher gap recovered (PGR)")
    right.spines["right"].set_color(PALE)


def _add_key(axes: Axes, curve: Curve) -> None:
    """Name the lines in the free lower right corner, best first, each in its colour."""
    area = {rule: curve.apgr[rule]["0-0.3"] for rule in curve.rules}
    ranked = sorted(curve.rules, key=lambda rule: -area[rule] if math.isfinite(area[rule]) else 0.0)
    handles = [axes.plot([], [], **look(rule))[0] for rule in ranked]
    labels = []
    for rule in ranked:
        seeds = len(curve.seeds[rule])
        words = [f"{seeds} seeds"] if seeds > 1 else ["sees the teacher"] if RULES[rule].needs_teacher else []
        labels.append(rule + (f"  ({words[0]})" if words else ""))
    bands = any(len(seeds) > 1 for seeds in curve.seeds.values())
    order = ["best first, by area up to use 0.3"] if any(map(math.isfinite, area.values())) else []
    words = ["band: lowest to highest seed"] if bands else []
    title = "\n".join([*order, *words, f"no line: more than {APART:g} apart, not measured"])
    key = axes.legend(
        handles,
        labels,
        loc="lower right",
        # Just above the student's line, below which no rule should be.
        bbox_to_anchor=(1.0, axes.transLimits.transform((0.0, curve.student["quality"]))[1] + 0.01),
        fontsize=9,
        labelcolor=INK,
        facecolor="white",
        edgecolor="none",
        framealpha=0.9,
        title=title,
        title_fontsize=8,
        alignment="left",
        handlelength=2.6,
        labelspacing=0.35,
    )
    key.get_title().set_color(PALE)
    for rule, text in zip(ranked, key.get_texts(), strict=True):
        text.set_fontweight("bold" if rule in OURS else "normal")


def _draw_adherence(axes: Axes, curve: Curve) -> None:
    """Draw measured minus asked use: one column a budget, one mark a rule and seed."""
    budgets, places = curve.interior, len(curve.rules)
    worst = 0.02
    for place, rule in enumerate(curve.rules):
        shift = 0.8 * ((place + 0.5) / places - 0.5)
        points = [
            (budgets.index(point.budget) + shift, point.use - point.budget)
            for seed in curve.seeds[rule]
            for point in curve.of(rule, seed)
            if point.budget in budgets
        ]
        x, y = zip(*points, strict=True)
        axes.plot(x, y, **(look(rule) | {"linestyle": "none", "markersize": 5}), clip_on=False)
        worst = max(worst, *map(abs, y))
    for column in range(0, len(budgets), 2):
        axes.axvspan(column - 0.5, column + 0.5, color="#F6F6F6", zorder=0, linewidth=0)
    axes.axhline(0.0, color=INK, linewidth=1.0, zorder=1)
    axes.set_ylim(-1.15 * worst, 1.15 * worst)
    axes.set_xlim(-0.5, len(budgets) - 0.5)
    axes.set_xticks(range(len(budgets)), [f"{budget:g}" for budget in budgets])
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_signed))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"teacher budget asked for ({curve.mode} mode)")
    errors = [abs(point.use - point.budget) for point in curve.points if point.budget in budgets]
    words = f"measured use minus budget, by seed\nmean absolute error {np.mean(errors):.3f}"
    axes.set_title(words, loc="left", size=9.5, color=INK)


def _signed(value: float, _: int) -> str:
    """Return a tick's label with its sign, a true minus for the negative ones."""
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")
