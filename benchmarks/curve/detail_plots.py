"""The pictures that look closer: how budgets were kept, where the calls go, predicted and true gains, prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wheels.benchmarks.core.style import DASHED, DOTTED, THIN, Look, Theme, legend, line, new_figure, percent
from wheels.benchmarks.curve.plot import by_seed, look, weight
from wheels.benchmarks.curve.summary import QUANTILES, interior


def draw_adherence(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `curve.json` holds: every rule's error on the left, the spread over single outputs on the right."""
    figure, budgets = new_figure("Measured use against the budget", 10.4, 4.8), interior(found)
    whole, single = figure.subplots(1, 2)
    for axes in (whole, single):
        axes.set_xticks(range(len(budgets)), [f"{budget:.0%}" for budget in budgets])
        axes.set_xlabel(f"teacher budget asked for ({found['mode']} mode)")
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        percent(axes.yaxis)
    _draw_errors(whole, found, theme)
    _draw_single(single, found, theme)
    legend(figure, [whole], loc="outside right center")
    return figure


def _draw_errors(axes: Axes, found: Mapping[str, Any], theme: Theme) -> None:
    """Draw measured minus asked use: one column a budget, one mark a rule and seed."""
    places, worst = len(found["rules"]), 0.02
    for place, rule in enumerate(found["rules"]):
        shift = 0.8 * ((place + 0.5) / places - 0.5)
        errors_IP = np.array([[point["use"] - point["budget"] for point in one] for one in by_seed(found, rule)])
        columns_IP = np.broadcast_to(np.arange(errors_IP.shape[1]) + shift, errors_IP.shape)
        shape, size = look(rule), weight(found, rule).size
        look_of: Any = {"color": theme.shade(shape.colour), "ms": size, "label": shape.label, "clip_on": False}
        axes.plot(columns_IP.ravel(), errors_IP.ravel(), shape.marker, **look_of)
        worst = max(worst, float(np.abs(errors_IP).max()))
    for column in range(0, len(interior(found)), 2):
        axes.axvspan(column - 0.5, column + 0.5, color=theme.grid, alpha=0.4, zorder=0, linewidth=0)
    axes.axhline(0.0, color=theme.ink, linewidth=1.0, zorder=1)
    axes.set(
        ylim=(-1.15 * worst, 1.15 * worst),
        xlim=(-0.5, len(interior(found)) - 0.5),
        ylabel="measured use minus budget",
        title="All outputs together: a mark per rule and seed",
    )


def _draw_single(axes: Axes, found: Mapping[str, Any], theme: Theme) -> None:
    """Draw how the first rule's use spreads over single outputs: median, middle half, and the range of nine in ten."""
    rule, budgets = found["rules"][0], interior(found)
    quantiles = found["adherence"][rule]["use_quantiles"]
    low, lower, middle, upper, high = np.array([quantiles[f"{budget:g}"] for budget in budgets]).T
    columns, colour = range(len(budgets)), theme.shade(look(rule).colour)
    axes.vlines(columns, low, high, color=colour, linewidth=2.0, alpha=0.55, zorder=3)
    axes.vlines(columns, lower, upper, color=colour, linewidth=9.0, alpha=0.45, zorder=3)
    axes.plot(columns, middle, "o", color=colour, markersize=6, zorder=5)
    asked: Any = {"color": theme.ink, "ls": DASHED, "lw": 1.0, "zorder": 4}
    axes.hlines(budgets, np.array(columns) - 0.35, np.array(columns) + 0.35, **asked)
    words = f"Single outputs of {rule}: dot median, thick middle half,\n"
    words += f"thin {QUANTILES[0]}th to {QUANTILES[-1]}th percentile; dashed: as asked"
    axes.set(
        ylim=(0.0, min(1.0, 1.08 * max(float(high.max()), *budgets))),
        xlim=(-0.5, len(budgets) - 0.5),
        ylabel="teacher use within one output",
        title=words,
    )


PANELS = {"position": "place of the token in its output (% of its length)", "frequency": "frequency of the token"}


def draw_calls(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `curve.json` holds under `details`, `calls`; the frequencies only where token ids are known."""
    calls = found["details"]["calls"]
    shown = {name: words for name, words in PANELS.items() if calls[name]}
    rates = [value for name in shown for rate in calls[name] for value in (rate["rate"], rate["high"]) if value]
    figure = new_figure(f"Where {calls['rule']} calls the teacher", 5.4 * len(shown), 4.2)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (name, words) in zip(panels, shown.items(), strict=True):
        _draw_rates(axes, calls[name], theme, look(calls["rule"]).colour)
        axes.axhline(calls["overall"], color=theme.ink, linewidth=1.1, linestyle=DASHED, zorder=4)
        axes.set(xlabel=words, ylim=(0.0, min(1.05, 1.18 * max([calls["overall"], 0.01, *rates]))))
    percent(panels[0].yaxis)
    panels[0].set(
        ylabel="share of the tokens that the teacher wrote",
        title=f"dashed: random calls at the same use, {calls['overall']:.1%}",
    )
    return figure


def _draw_rates(axes: Axes, rates: Sequence[Mapping[str, Any]], theme: Theme, colour: str) -> None:
    """Draw one bar a bin, with its interval and its count of tokens."""
    x = np.arange(len(rates))
    rate, low, high = (np.array([one[name] for one in rates], dtype=float) for name in ("rate", "low", "high"))
    axes.bar(x, np.nan_to_num(rate), width=0.8, color=theme.shade(colour), alpha=0.75, zorder=2)
    axes.vlines(x, low, high, color=theme.ink, linewidth=1.3, zorder=3)
    names = [one["name"].replace("%", "") if len(rates) > 6 else one["name"] for one in rates]
    axes.set_xticks(x, [f"{name}\n{_count(one['tokens'])}" for name, one in zip(names, rates, strict=True)])
    axes.tick_params(axis="x", length=0, labelsize=8)
    axes.grid(visible=False, axis="x")


def _count(tokens: int) -> str:
    """Return a count of tokens in few characters."""
    return f"n={tokens}" if tokens < 1_000 else f"n={tokens / 1000:.0f}k"


def draw_reliability(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `curve.json` holds under `details`, `reliability`."""
    predicted = found["details"]["reliability"]
    figure = new_figure("Predicted gain and true regret", 6.6, 5.0)
    axes = figure.subplots()
    gain, regret, low, high = (
        [group[name] for group in predicted["found"]["groups"]] for name in ("gain", "regret", "low", "high")
    )
    ends = [min(0.0, *gain), max(gain)]
    axes.plot(ends, ends, color=theme.ink, linewidth=1.0, linestyle=DASHED, zorder=1, label="exactly as predicted")
    counted = f", counted for at most {predicted['clip']:g} nats" if predicted["clip"] else ""
    shape = replace(look(predicted["rule"]), label=f"{predicted['rule']}{counted}; 95% intervals", dashes="")
    line(axes, theme, shape, gain, regret, low=low, high=high)
    if predicted["clip"]:
        whole = [group["regret"] for group in predicted["whole"]["groups"]]
        line(axes, theme, Look("counted in full", theme.pale, dashes=DOTTED), gain, whole)
    axes.set(
        xlabel="predicted gain of a call (nats, mean of a tenth of the states)",
        ylabel="true regret of the student's token (nats, mean)",
    )
    legend(axes, [axes], loc="upper left")
    return figure


def draw_prices(prices: Mapping[float, Mapping[int, Sequence[tuple[int, float]]]], theme: Theme) -> Figure:
    """Draw what `read_prices` found: a colour a budget, a thin line a seed."""
    shades = matplotlib.colormaps["viridis_r"]
    figure = new_figure("Price of a call in training", 7.6, 4.4)
    axes = figure.subplots()
    for place, (budget, seeds) in enumerate(prices.items()):
        look = Look(f"{budget:.0%}", to_hex(shades(0.1 + 0.9 * place / max(1, len(prices) - 1))), ".")
        for rounds in seeds.values():
            numbers, values = map(list, zip(*rounds, strict=True))
            # A round that the log lacks is not drawn through.
            line(axes, theme, look, [number + 1 for number in numbers], values, THIN, apart=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        xlim=(1, None),
        xlabel="round of training, then step of settling",
        ylabel="price (nats per teacher token)",
        title="a thin line per seed",
    )
    legend(figure, [axes], "teacher budget", loc="outside right center")
    return figure
