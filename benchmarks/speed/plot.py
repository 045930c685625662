"""The picture of a comparison of speed: tokens a second of every system, and what it could reach at best."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wheels.benchmarks.curve.plot import GRID, INK, PALE, STYLE
from wheels.benchmarks.speed.config import REFERENCE, is_library
from wheels.benchmarks.speed.summary import BatchFigures, Figures, Speed
from wheels.benchmarks.speed.table import counted

# Of Okabe and Ito's palette, as in the picture of a curve.
THEIRS, ALONE, DEFERRAL, VERIFIED = "#9A9A9A", "#56B4E9", "#D55E00", "#009E73"
KINDS = {
    "transformers' own": THEIRS,
    "one model alone": ALONE,
    "deferral": DEFERRAL,
    "drafts that are verified": VERIFIED,
}
LIMIT_MARK = {"color": INK, "marker": "D", "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.7}


def colour(name: str) -> str:
    """Return the colour of a system: what kind of decoding it is."""
    if is_library(name):
        return THEIRS
    if name in ("teacher", "student"):
        return ALONE
    return DEFERRAL if name.startswith("deferral") else VERIFIED


def draw(speed: Speed) -> bytes:
    """Return the picture as PNG: a panel for each batch size, a bar for each system."""
    count, bars = len(speed.batches), max(len(batch.figures) for batch in speed.batches)
    with matplotlib.rc_context(STYLE):
        # A figure of its own, not pyplot's: no window and no state is left behind.
        keys = _keys(speed)
        columns = len(keys) if count > 1 else -(-len(keys) // 2)  # a single panel has no room for all in one line
        size = (2.4 + 4.1 * count, 1.7 + 0.33 * bars + (0.25 if columns < len(keys) else 0.0))
        figure = Figure(figsize=(max(size[0], 7.2), size[1]), layout=ConstrainedLayoutEngine(wspace=0.03))
        panels = figure.subplots(1, count, squeeze=False)[0]
        for number, (panel, batch) in enumerate(zip(panels, speed.batches, strict=True)):
            _draw_batch(panel, batch, named=number == 0)
        about = speed.about
        figure.suptitle(
            f"{about['task']}: tokens a second, n = {about['rows']}\n"
            f"student {about['student']}, teacher {about['teacher']}; {about['dtype']}, "
            f"{counted(about['threads'], 'thread')}",
            x=0.008,
            ha="left",
            size=10.5,
        )
        figure.legend(handles=keys, loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _keys(speed: Speed) -> list[Patch | Line2D]:
    """Return the legend: the colours that are used, the limit's mark, and the line of the rounds."""
    used = {colour(each.name) for batch in speed.batches for each in batch.figures}
    keys: list[Patch | Line2D] = [Patch(color=shade, label=word) for word, shade in KINDS.items() if shade in used]
    keys.append(Line2D([], [], linestyle="none", label="its own limit, by formula", **LIMIT_MARK))  # type: ignore[arg-type]
    keys.append(Line2D([], [], color=INK, linewidth=1.2, label="slowest to fastest round"))
    return keys


def _draw_batch(axes: Axes, batch: BatchFigures, *, named: bool) -> None:
    """Draw the bars of one batch size, the first system on top."""
    shown = batch.figures
    places = list(range(len(shown)))
    rates = [each.tokens_per_second for each in shown]
    axes.barh(
        places, [each.median for each in rates], height=0.68, color=[colour(each.name) for each in shown], zorder=2
    )
    whiskers = [[each.median - each.low for each in rates], [each.high - each.median for each in rates]]
    middles = [each.median for each in rates]
    axes.errorbar(middles, places, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5, zorder=4)
    marks = [(each.limit_tokens_per_second, place) for each, place in zip(shown, places, strict=True)]
    marked = [(limit, place) for limit, place in marks if limit is not None]
    if marked:
        axes.plot(*zip(*marked, strict=True), linestyle="none", zorder=5, clip_on=False, **LIMIT_MARK)  # type: ignore[arg-type]
    reference = next((each for each in shown if each.name == REFERENCE), None)
    if reference is not None:
        axes.axvline(reference.tokens_per_second.median, color=PALE, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
    furthest = max([each.high for each in rates] + [limit for limit, _ in marked])
    beside = {"transform": axes.get_yaxis_transform(), "ha": "right", "size": 8.5, "color": INK, "clip_on": False}
    for each, place in zip(shown, places, strict=True):
        axes.text(1.12, place, f"{each.speedup.median:.2f}", va="center", **beside)  # type: ignore[arg-type]
    axes.text(1.12, -0.75, f"\N{MULTIPLICATION SIGN} {REFERENCE}", va="bottom", **beside)  # type: ignore[arg-type]
    axes.set_xlim(0.0, 1.08 * furthest)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    labels = [each.name + ("*" if each.label != each.name else "") for each in shown]
    axes.set_yticks(places, labels if named or len(labels) != len(set(labels)) else [mark_only(each) for each in shown])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("tokens a second")
    note = "   (* row by row)" if any(each.label != each.name for each in shown) else ""
    axes.set_title(f"batch size {batch.batch_size}{note}", loc="left", size=9.5, weight="bold", color=INK)


def mark_only(figures: Figures) -> str:
    """Return the label of a bar whose name stands in the panel to the left: a star where the batch size is not kept."""
    return "*" if figures.label != figures.name else ""
