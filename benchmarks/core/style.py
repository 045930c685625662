"""How every picture looks: a light and a dark theme, one line with its interval, one way to save.

A module that draws takes what a result's JSON file holds and a `Theme`, and returns a figure; `render` makes both
versions of it, `wheels.benchmarks.redraw` makes them again from the file.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike
from PIL import Image

from wheels.output.page import DARK_INK, DARK_PAPER, INK, PAPER, Picture

LEAST_CONTRAST = 3.0
"""What sets a graphic off from its ground (https://www.w3.org/TR/WCAG22/#non-text-contrast)."""
COLOURS = 256
"""Of a saved picture: a third of the bytes of all colours; k-means keeps those of thin lines as they are."""


SIZES = {
    "figure.dpi": 160, "savefig.dpi": 160, "font.size": 10, "axes.titlesize": 10, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.linewidth": 0.8, "legend.frameon": False, "legend.fontsize": 9, "legend.title_fontsize": 9,
    "legend.labelspacing": 0.45, "lines.markeredgewidth": 0.6,
}  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """The colours of a picture beside those of its lines."""

    paper: str
    ink: str
    pale: str
    """Frames, reference lines, notes."""
    grid: str

    def shade(self, colour: str, least: float = LEAST_CONTRAST) -> str:
        """Return a colour, mixed with ink as far as it takes for this contrast with the paper."""
        for share in np.linspace(0.0, 1.0, 41):
            mixed = (1.0 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(self.ink))
            if contrast(mixed, self.paper) >= least:
                break
        return to_hex(mixed)


LIGHT = Theme(PAPER, INK, "#767676", "#e8e8e8")
DARK = Theme(DARK_PAPER, DARK_INK, "#909399", "#2f3136")


@dataclass(frozen=True)
class Look:
    """How one thing is drawn in every picture."""

    label: str
    colour: str = "#6E6E6E"
    marker: str = "o"
    dashes: Any = "-"


@dataclass(frozen=True)
class Weight:
    """How much a line is to be seen."""

    width: float
    size: float
    order: int


HEAVY, PLAIN, THIN = Weight(2.6, 7.0, 6), Weight(1.6, 6.0, 4), Weight(1.0, 4.5, 3)
DASHED, DOTTED = (0, (4, 2)), (0, (1, 2))

# Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/), and four of
# Tol's muted colours (https://personal.sron.nl/~pault/) beyond it; each has its own mark besides.
SERIES = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#332288", "#882255", "#999933", "#44AA99")
MARKERS = "osD^vXp*<>"


def contrast(colour: ArrayLike | str, paper: ArrayLike | str) -> float:
    """Return the contrast of two colours, 1 to 21: `(light + 0.05) / (dark + 0.05)` of their luminances (WCAG 2)."""
    dark, light = sorted(map(_luminance, (colour, paper)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: Any) -> float:
    """Return the relative luminance of an sRGB colour, 0 to 1."""
    rgb = np.array(to_rgb(colour))
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


def nth(place: int, label: str) -> Look:
    """Return the look of the nth of several things that have none of their own."""
    return Look(label, SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)])


def render(draw: Callable[..., Figure], *what: Any) -> Picture:
    """Return the picture that `draw(*what, theme)` makes in each theme; the same bytes for the same figure."""
    return Picture(*(_png(draw, what, theme) for theme in (LIGHT, DARK)))


def _png(draw: Callable[..., Figure], what: Sequence[Any], theme: Theme) -> bytes:
    """Return one version as PNG."""
    drawn, small = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(settings(theme)):
        draw(*what, theme).savefig(drawn, format="png")
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
    few.save(small, "png", optimize=True)
    return small.getvalue()


def settings(theme: Theme) -> Any:
    """Return matplotlib's settings."""
    colours = {
        theme.paper: "figure.facecolor axes.facecolor savefig.facecolor lines.markeredgecolor",
        theme.ink: "text.color axes.labelcolor xtick.labelcolor ytick.labelcolor",
        theme.pale: "axes.edgecolor xtick.color ytick.color",
        theme.grid: "grid.color",
    }
    return SIZES | {name: colour for colour, names in colours.items() for name in names.split()}


def new_figure(title: str, width: float = 8.6, height: float = 4.8) -> Figure:
    """Return a figure of its own, not pyplot's: no window and no state is left behind."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.008, ha="left", weight="bold", size=12)
    return figure


def line(
    axes: Axes,
    theme: Theme,
    look: Look,
    x: ArrayLike,
    y: ArrayLike,
    weight: Weight = PLAIN,
    *,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    apart: float = math.inf,
) -> None:
    """Draw points and the line between neighbours at most `apart`, with their intervals.

    An interval is a band under a heavy line, of which a picture has few, and a bar at each point of another: many
    bands on each other are mud.
    """
    x_N, y_N, colour = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), theme.shade(look.colour)
    shape = {"color": colour, "ls": look.dashes, "lw": weight.width, "marker": look.marker, "ms": weight.size}
    for place, run in enumerate(runs(x_N, apart)):
        axes.plot(x_N[run], y_N[run], label=look.label if place == 0 else None, zorder=weight.order, **shape)
        if low is None or high is None:
            continue
        low_N, high_N = np.asarray(low)[run], np.asarray(high)[run]
        if weight is HEAVY and len(x_N[run]) > 1:
            axes.fill_between(x_N[run], low_N, high_N, color=colour, alpha=0.16, linewidth=0, zorder=2)
        else:
            axes.vlines(x_N[run], low_N, high_N, color=colour, linewidth=1.2, zorder=weight.order - 1)


def runs(points: ArrayLike, apart: float) -> list[slice]:
    """Return the runs of points in rising order between which a line may be drawn: neighbours at most `apart` apart.

    To one more decimal: budgets 0.1 apart are kept to some hundredths, and their points are neighbours all the same.
    """
    breaks = np.flatnonzero(np.diff(np.asarray(points, dtype=np.float64)) >= 1.5 * apart) + 1
    return [slice(*ends) for ends in itertools.pairwise([0, *breaks.tolist(), np.size(points)])]


def level(axes: Axes, theme: Theme, value: float, words: str, *, below: bool = False) -> None:
    """Draw a dotted line across, with its name at the left end above it, or at the right end below it."""
    axes.axhline(value, color=theme.pale, linewidth=1.1, linestyle=DOTTED, zorder=1)
    place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "zorder": 8}
    if below:
        axes.annotate(words, (1.0, value), (-4, -4), ha="right", va="top", **place)
    else:
        axes.annotate(words, (0.0, value), (4, 4), va="bottom", **place)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Give each thing a row, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def draw_row(axes: Axes, theme: Theme, look: Look, row: int, ends: Sequence[float], text: str, *, best: bool) -> None:
    """Draw low, value and high of one row, and its number at the right, bold where it is the best."""
    low, value, high = ends
    axes.plot([low, high], [row, row], color=theme.shade(look.colour), lw=3.0, alpha=0.7, zorder=3)
    axes.plot(value, row, look.marker, color=theme.shade(look.colour), ms=8.0, zorder=5, label=look.label)
    place: Any = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
    axes.text(1.12, row, text, size=9, weight="bold" if best else "normal", **place)


def legend(
    where: Figure | Axes, axes: Sequence[Axes], title: str = "", order: Sequence[str] = (), **place: Any
) -> None:
    """Name what all `axes` show, once each; those of `order` first, a name in it bold where its line is heavy."""
    found: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    names = sorted(found, key=lambda name: order.index(name) if name in order else len(order))
    if not names:
        return
    key = where.legend([found[name] for name in names], names, title=title or None, alignment="left", **place)
    for name, text in zip(names, key.get_texts(), strict=True):
        if getattr(found[name], "get_linewidth", float)() == HEAVY.width:
            text.set_fontweight("bold")


def percent(axis: Axis) -> None:
    """Show shares as percentages."""
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
