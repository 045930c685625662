"""The picture of a curve: quality against measured teacher use, or against dollars where these were asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wheels.benchmarks.core.bootstrap import APART, LEAST_GAP, Floats
from wheels.benchmarks.core.style import (
    DASHED,
    HEAVY,
    PLAIN,
    THIN,
    Look,
    Theme,
    Weight,
    legend,
    level,
    line,
    new_figure,
    percent,
)
from wheels.benchmarks.curve.money import costs
from wheels.benchmarks.curve.summary import TRIVIAL, interior
from wheels.decoding.methods.rules import BUILT_IN, RULES, TRAINED
from wheels.metrics import metric_name


@dataclass(frozen=True)
class Abscissa:
    """What a curve is drawn over."""

    title: str
    label: str
    teacher: float
    """Where the teacher alone stands."""
    of: Callable[[Mapping[str, Any]], float]
    """Where a point stands."""
    apart: float
    """Neighbours further apart are not joined."""
    note: str
    """What the legend says of it."""


def abscissa_of(found: Mapping[str, Any]) -> Abscissa:
    """Return what the curve in `curve.json` is drawn over."""
    if "money" not in found["details"]:
        label = "measured teacher use: share of the tokens that the teacher wrote"
        apart = f"\nNo line: budgets over {APART:.0%} apart."
        return Abscissa("teacher use", label, 1.0, lambda point: point["use"], APART, apart)
    known, money = costs(found), found["details"]["money"]
    label = f"what the calls cost: dollars for {money['texts']:,} texts"

    def of(point: Mapping[str, Any]) -> float:
        return known[point["rule"], point["seed"], point["budget"]]

    return Abscissa("dollars", label, money["teacher"], of, math.inf, "")


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `curve.json` holds."""
    name, over = metric_name(found["metrics"][0]), abscissa_of(found)
    figure = new_figure(f"{found['task']}: {name} against {over.title}, n = {found['sentences']}", 10.2, 5.0)
    axes = figure.subplots()
    budgets = interior(found)
    for rule in found["rules"] if budgets else []:
        x_P, mean_P, low_P, high_P = mean_curve(found, rule, over)
        shape, seen = look(rule), weight(found, rule)
        band = {"low": low_P, "high": high_P} if seen is HEAVY and len(found["seeds"][rule]) > 1 else {}
        line(axes, theme, shape, x_P, mean_P, seen, apart=over.apart, **band)
    student, teacher = found["student"]["quality"], found["teacher"]["quality"]
    level(axes, theme, teacher, f"teacher alone: {teacher:.1f} {name}")
    level(axes, theme, student, f"student alone: {student:.1f} {name}", below=True)
    _set_limits(axes, found, over)
    for x, quality in ((0.0, student), (over.teacher, teacher)):
        if x <= axes.get_xlim()[1]:
            axes.plot(x, quality, "o", color=theme.ink, markersize=7, zorder=7, clip_on=False)
    names = f"student: {found['student']['name']}; teacher: {found['teacher']['name']}"
    title = names if len(names) <= 90 else names[:89] + "\N{HORIZONTAL ELLIPSIS}"
    axes.set(xlabel=over.label, ylabel=name, title=title)
    if over.apart == APART:
        percent(axes.xaxis)
    _add_gap_axis(axes, theme, student, teacher)
    ranked = sorted(found["rules"], key=lambda rule: -area(found, rule))
    title = f"Best first (area up to {reach(found):.0%} use).\nBand: lowest to highest seed.{over.note}"
    legend(figure, [axes], title, [look(rule).label for rule in ranked], loc="outside right center")
    return figure


def mean_curve(
    found: Mapping[str, Any], rule: str, over: Abscissa | None = None
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return a rule's use (or dollars) and quality, means over seeds, and the lowest and highest seed's quality.

    The student's own point is an end, whatever budgets were asked for; the teacher's is the other one of use. Calls
    through a whole text cost more than the teacher alone, so that of dollars stands by itself.
    """
    over = over or abscissa_of(found)
    lines, joined = by_seed(found, rule), over.apart == APART
    ends, teacher = ([over.teacher], [found["teacher"]["quality"]]) if joined else ([], [])
    x_IP = np.array([[0.0, *(over.of(point) for point in one), *ends] for one in lines])
    student = found["student"]["quality"]
    quality_IP = np.array([[student, *(point["quality"] for point in one), *teacher] for one in lines])
    order_P = np.argsort(x_IP.mean(0), kind="stable")
    means = (x_IP.mean(0), quality_IP.mean(0), quality_IP.min(0), quality_IP.max(0))
    x_P, mean_P, low_P, high_P = (values_P[order_P] for values_P in means)
    return x_P, mean_P, low_P, high_P


def _set_limits(axes: Axes, found: Mapping[str, Any], over: Abscissa) -> None:
    """Show all that was measured, to the teacher's end where that is near, and every quality there."""
    inside = [point for point in found["points"] if 0.0 < point["budget"] < 1.0]
    furthest = max([over.of(point) for point in inside], default=over.teacher)
    far = furthest < 0.75 * over.teacher
    axes.set_xlim(0.0, 1.06 * furthest if far or furthest > over.teacher else over.teacher)
    levels = [found["student"]["quality"], found["teacher"]["quality"], *(point["quality"] for point in inside)]
    span = max(max(levels) - min(levels), 1e-9)
    axes.set_ylim(min(levels) - 0.075 * span, max(levels) + 0.075 * span)


def _add_gap_axis(axes: Axes, theme: Theme, student: float, teacher: float) -> None:
    """Put the share of the gap on the right, where there is a gap to speak of; the lines across are of it."""
    gap = teacher - student
    if gap < LEAST_GAP:
        return
    to_share, to_quality = (lambda quality: (quality - student) / gap), (lambda share: student + share * gap)
    right = axes.secondary_yaxis("right", functions=(to_share, to_quality))
    shares = np.linspace(0.0, 1.0, 6)
    right.set_yticks(shares)
    right.set_ylabel("share of the student-teacher gap recovered (PGR)")
    percent(right.yaxis)
    axes.grid(visible=False, axis="y")
    axes.hlines(student + shares[1:-1] * gap, *axes.get_xlim(), color=theme.grid, linewidth=0.8, zorder=0)


def look(rule: str) -> Look:
    """Return how a rule is drawn: as its record says; one of another program's, known by its name alone, in grey."""
    record = RULES.get(rule)
    if record is None:
        return Look(rule)
    label = f"{rule}: {record.label}" if record.label else rule
    return Look(label, record.color, record.mark, DASHED if record.needs_teacher else "-")


def weight(found: Mapping[str, Any], rule: str) -> Weight:
    """Return how much a rule is to be seen: the trained one, the best threshold and random calls stand out."""
    if rule in main_rules(found):
        return HEAVY
    return PLAIN if rule == "foresight" else THIN


def main_rules(found: Mapping[str, Any]) -> list[str]:
    """Return the rules that answer the question: the trained one, the best threshold, random calls, and one's own."""
    rules = found["rules"]
    trained = [rule for rule in TRAINED if rule in rules][:1]
    best = sorted((rule for rule in TRIVIAL if rule in rules), key=lambda rule: -area(found, rule))[:1]
    built_in = {rule.name for rule in BUILT_IN}
    return [*trained, *best, *(rule for rule in rules if rule == "random" or rule not in built_in)]


def reach(found: Mapping[str, Any]) -> float:
    """Return the use up to which every rule was measured, 0.3 at most."""
    lines = [line for rule in found["rules"] for line in by_seed(found, rule) if line]
    return min([0.3, *(max(point["use"] for point in line) for line in lines)])


def area(found: Mapping[str, Any], rule: str) -> float:
    """Return the area under a rule's line up to `reach`, which ranks the rules."""
    use_P, mean_P, _, _ = mean_curve(found, rule)
    grid_P = np.linspace(0.0, reach(found), 101)
    return float(np.interp(grid_P, use_P, mean_P).mean())


def by_seed(found: Mapping[str, Any], rule: str) -> list[list[Mapping[str, Any]]]:
    """Return a rule's points between the ends, a list for each seed, in order of budgets."""
    points = [point for point in found["points"] if point["rule"] == rule and 0.0 < point["budget"] < 1.0]
    ordered = sorted(points, key=lambda point: point["budget"])
    return [[point for point in ordered if point["seed"] == seed] for seed in found["seeds"][rule]]
