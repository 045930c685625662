"""The prices of a training: what `metrics.jsonl` holds of them, and their picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wheels.benchmarks.core.style import THIN, Look, Theme, legend, line, new_figure
from wheels.json_text import parse_object

Prices = dict[float, dict[int, list[tuple[int, float]]]]
"""By budget and seed: (round, price in nats per teacher token), in order; the last rounds settle the prices."""


def read_prices(path: Path) -> Prices:
    """Return the prices that `wheels train` logged, as `path` holds them; empty where it holds none.

    A line that was cut, or that tells of something else, is passed over.
    """
    found: dict[float, dict[int, dict[int, float]]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for text in lines:
        try:
            figures = parse_object(text, str(path), finite=False)
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


def draw_prices(prices: Prices, theme: Theme) -> Figure:
    """Draw a colour a budget, a thin line a seed."""
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
