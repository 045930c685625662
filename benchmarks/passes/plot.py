"""The picture of `wheels bench passes`: quality over teacher passes per generated token, by family of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wheels.benchmarks.core.bootstrap import APART
from wheels.benchmarks.core.style import (
    DOTTED,
    HEAVY,
    PLAIN,
    SERIES,
    THIN,
    Look,
    Theme,
    legend,
    level,
    line,
    new_figure,
)
from wheels.benchmarks.passes.settings import RULED
from wheels.metrics import metric_name

LOOKS = {
    "deferral": Look("deferral", SERIES[0], "o"),
    "tuned": Look("tuned: the best of these on other rows", SERIES[1], "s"),
    "priced": Look("priced deferral", "#8F6BB8", "h"),
    "verified": Look("verified deferral", "#3B82C4", "s"),
    "verified-all": Look("verified to the end", "#3A9150", "D"),
    "take-back": Look("take-back: drafts cut at a regret", SERIES[2], "^", DOTTED),
    "bild": Look("BiLD", SERIES[3], "v", DOTTED),
    "speculative": Look("speculative decoding, exact", "#444444", "P", DOTTED),
    "lossy": Look("speculative decoding, lossy", "#6E6E6E", "X", DOTTED),
    "cascade": Look("speculative cascades", SERIES[4], "d", DOTTED),
    "lookup": Look("prompt lookup", "#8A8A8A", "p", DOTTED),
}
FAINT, STRONG = 4.0, 9.5
"""The contrasts of the first and the last curve of a family with several."""
MAIN = ("deferral", "tuned")
"""The families that stand out, with their bands."""

Curves = Sequence[Sequence[Mapping[str, Any]]]


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `passes.json` holds: every method, and beside them the forms of verified deferral, where there are."""
    metric = next(iter(found["metrics"]))
    mine = [band for band in found["bands"] if band["metric"] == metric]
    curves = [[band for band in mine if band["line"] == name] for name in dict.fromkeys(band["line"] for band in mine)]
    verified = [curve for curve in curves if curve[0]["family"].startswith("verified")]
    others = [curve for curve in curves if curve not in verified]
    title = f"{found['task']}: {metric_name(metric)} against teacher passes, n = {found['rows']}"
    figure = new_figure(title, 11.6 if verified else 7.6, 6.4 if verified else 6.0)
    panels = figure.subplots(1, 2 if verified else 1, sharex=True, sharey=True, squeeze=False)[0]
    _draw_fixed(panels[0], found["points"], metric, theme)
    _draw_ruled(panels[0], others, theme)
    panels[0].set(ylabel=metric_name(metric), title="Every method" if verified else "")
    if verified:
        _draw_ruled(panels[1], [curve for curve in others if curve[0]["family"] == "deferral"] + verified, theme)
        panels[1].set_title("Verified deferral, by the regret that a draft token may have")
    ends = [next(point for point in found["points"] if point["family"] == end) for end in ("student", "teacher")]
    student, teacher = (end["metrics"][metric] for end in ends)
    note = f"Bands: 95% over rows and seeds.\nNo line: points over {APART:g} passes apart."
    for axes in panels:
        level(axes, theme, teacher, f"teacher alone, 1 pass per token: {teacher:.1f}")
        level(axes, theme, student, f"student alone: {student:.1f}", below=True)
        axes.set(xlabel="teacher passes per generated token", xlim=(0, None))
        place: Any = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.07)}
        legend(axes, [axes], note if curves and axes is panels[0] else "", **place)
    return figure


def _draw_fixed(axes: Axes, points: Sequence[Mapping[str, Any]], metric: str, theme: Theme) -> None:
    """Draw the settings that no rule drives, a thin line through each curve of them."""
    fixed = [point for point in points if point["family"] not in (*RULED, "student", "teacher")]
    for name in dict.fromkeys(point["line"] for point in fixed):
        mine = sorted((point for point in fixed if point["line"] == name), key=lambda point: point["passes"])
        x, y = [point["passes"] for point in mine], [point["metrics"][metric] for point in mine]
        line(axes, theme, LOOKS[mine[0]["family"]], x, y, replace(THIN, size=6.0), apart=APART)


def _draw_ruled(axes: Axes, curves: Curves, theme: Theme) -> None:
    """Draw the curves that a rule drives; several of one family in shades, the main ones with their bands."""
    for curve in curves:
        family = curve[0]["family"]
        same = [other for other in curves if other[0]["family"] == family]
        look = LOOKS[family]
        if len(same) > 1:
            least = FAINT + (STRONG - FAINT) * same.index(curve) / (len(same) - 1)
            look = replace(look, colour=theme.shade(look.colour, least))
        if family not in MAIN:
            look = replace(look, label=look.label + curve[0]["line"].removeprefix(family))
        points = sorted(curve, key=lambda band: band["passes"])
        x, y, low, high = ([band[name] for band in points] for name in ("passes", "value", "low", "high"))
        band = {"low": low, "high": high} if family in MAIN else {}
        line(axes, theme, look, x, y, HEAVY if family in MAIN else PLAIN, apart=APART, **band)
