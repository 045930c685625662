"""The picture of `wheels bench ceiling`: quality against teacher use, from random calls to the ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wheels.benchmarks.ceiling.ceilings import IMITATION, ceiling_of
from wheels.benchmarks.core.style import DASHED, HEAVY, PLAIN, Look, Theme, legend, level, line, new_figure, percent
from wheels.benchmarks.curve.plot import look
from wheels.metrics import metric_name

CEILING = Look("ceiling: knows the references", "#000000", "*", DASHED)
IMITATES = Look(f"{IMITATION}: knows the teacher's texts", "#882255", "h", DASHED)


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `ceiling.json` holds."""
    metric = next(iter(found["metrics"]))
    name = metric_name(metric)
    figure = new_figure(f"{found['task']}: {name} under perfect foresight, n = {found['rows']}", 9.6, 5.0)
    axes = figure.subplots()
    looks = {ceiling_of(metric): CEILING, IMITATION: IMITATES} | {rule: look(rule) for rule in found["rules"][::-1]}
    for rule, shape in looks.items():
        use_P, quality_P = _line(found, rule, metric)
        line(axes, theme, shape, use_P, quality_P, HEAVY if rule == ceiling_of(metric) else PLAIN)
    level(axes, theme, found["teacher"][metric], f"teacher alone: {found['teacher'][metric]:.1f} {name}")
    level(axes, theme, found["student"][metric], f"student alone: {found['student'][metric]:.1f} {name}", below=True)
    axes.set(
        xlabel="measured teacher use: share of the tokens that the teacher wrote",
        ylabel=name,
        title=f"student: {found['student_name']}; teacher: {found['teacher_name']}",
    )
    axes.set_xlim(left=0.0)
    percent(axes.xaxis)
    legend(figure, [axes], loc="outside right center")
    return figure


def _line(found: Mapping[str, Any], rule: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return use and quality of a rule, means over seeds, from the student's on."""
    mine = [point for point in found["points"] if point["rule"] == rule]
    points = [(point["budget"], point["use"], point["metrics"][metric]) for point in mine]
    budgets = sorted({budget for budget, _, _ in points})
    means = [np.mean([one[1:] for one in points if one[0] == budget], axis=0) for budget in budgets]
    use_P, quality_P = np.array([[0.0, found["student"][metric]], *means]).T
    return use_P, quality_P
