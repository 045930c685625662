"""The prices of a training: what `metrics.jsonl` holds of them, and their picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wheels.benchmarks.curve.plot import GRID, INK, STYLE, as_png, runs
from wheels.json_text import parse_object

Prices = dict[float, dict[int, list[tuple[int, float]]]]
"""By budget and seed: (round, price in nats per teacher token), in order of rounds."""


def read_prices(path: Path) -> Prices:
    """Return the prices that `wheels train` logged, as `path` holds them; empty where it holds none.

    A line that was cut, or that tells of something else, is passed over.
    """
    found: dict[float, dict[int, dict[int, float]]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            figures = parse_object(line, str(path), finite=False)
            place = int(figures["seed"]), int(figures["round"])
            prices = {float(budget): float(price) for budget, price in figures["prices"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for budget, price in prices.items():
            found.setdefault(budget, {}).setdefault(place[0], {})[place[1]] = price
    return {
        budget: {seed: sorted(rounds.items()) for seed, rounds in sorted(seeds.items())}
        for budget, seeds in sorted(found.items())
    }


def draw_prices(prices: Prices) -> bytes:
    """Return the picture as PNG: a colour a budget, a thin line a seed."""
    colours = matplotlib.colormaps["viridis_r"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        axes = figure.subplots()
        for place, (budget, seeds) in enumerate(prices.items()):
            colour = colours(0.1 + 0.9 * place / max(1, len(prices) - 1))
            for order, line in enumerate(seeds.values()):
                rounds, values = map(list, zip(*line, strict=True))
                # A round that the log lacks is not drawn through.
                for run in runs(rounds, apart=1):
                    label = f"{budget:.0%}" if order == 0 and run.start == 0 else None
                    marker = "o" if len(rounds[run]) == 1 else ""
                    axes.plot([number + 1 for number in rounds[run]], values[run], color=colour, linewidth=1.1,
                              marker=marker, label=label)  # fmt: skip
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlim(left=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("round of training")
        axes.set_ylabel("price (nats per teacher token)")
        axes.set_title("a thin line per seed", loc="left", size=9.5, color=INK)
        figure.legend(frameon=False, loc="outside right center", title="teacher budget", alignment="left")
        return as_png(figure)
