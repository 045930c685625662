"""The picture of a comparison of speed: how many times as fast as transformers' own teacher each system is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from wheels.benchmarks.core.style import SERIES, Theme, legend, new_figure
from wheels.benchmarks.speed.config import REFERENCE, is_library
from wheels.benchmarks.speed.table import counted

THEIRS, ALONE, DEFERRAL, VERIFIED = (
    ("transformers' own", "#7A7A7A"),
    ("one model alone", SERIES[5]),
    ("deferral", SERIES[0]),
    ("drafts that are verified", SERIES[2]),
)
"""What kind of decoding a system is, and its colour."""


def kind(name: str) -> tuple[str, str]:
    """Return the kind of a system."""
    if is_library(name):
        return THEIRS
    if name in ("teacher", "student"):
        return ALONE
    return DEFERRAL if name.startswith("deferral") else VERIFIED


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `speed.json` holds: a panel for each batch size, a line for each system."""
    batches = found["batches"]
    rows = max(len(batch["contestants"]) for batch in batches)
    title = f"{found['task']}: tokens per second relative to {REFERENCE}, n = {found['rows']}"
    figure = new_figure(title, max(7.6, 2.2 + 3.4 * len(batches)), 2.2 + 0.3 * rows)
    panels = figure.subplots(1, len(batches), squeeze=False, sharey=True, sharex=True)[0]
    for axes, batch in zip(panels, batches, strict=True):
        _draw_batch(axes, batch, theme)
    names = [each["name"] for each in batches[0]["contestants"]]
    furthest = panels[0].get_xlim()[1] / panels[0].get_xlim()[0]
    panels[0].xaxis.set_major_locator(LogLocator(base=4 if furthest > 64 else 2))
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    about = (
        f"student {found['student']}, teacher {found['teacher']}; {found['dtype']}, "
        f"{counted(found['threads'], 'thread')}\nbold: the fastest that is not a student alone"
    )
    kinds = [words for words, _ in (THEIRS, ALONE, DEFERRAL, VERIFIED)]
    legend(figure, panels, about, kinds, loc="outside lower left", ncols=3)
    return figure


def _draw_batch(axes: Axes, batch: Mapping[str, Any], theme: Theme) -> None:
    """Draw one batch size, the first system on top."""
    reference = next(each for each in batch["contestants"] if each["name"] == REFERENCE)["tokens_per_second"]["median"]
    axes.axvline(1.0, color=theme.pale, linewidth=1.0, zorder=1)
    for place, each in enumerate(batch["contestants"]):
        (words, colour), ratio = kind(each["name"]), each["speedup"]
        shade, note = theme.shade(colour), "" if each["label"] == each["name"] else "*"
        axes.plot([1.0, ratio["median"]], [place, place], color=shade, linewidth=1.0, alpha=0.5, zorder=2)
        axes.plot(ratio["median"], place, "o", color=shade, markersize=7.5, zorder=5, label=words)
        axes.plot(
            [ratio["low"], ratio["high"]],
            [place, place],
            color=shade,
            linewidth=3.5,
            alpha=0.7,
            zorder=3,
            label="slowest to fastest round",
        )
        if each["limit_tokens_per_second"] is not None:
            axes.plot(
                each["limit_tokens_per_second"] / reference,
                place,
                "|",
                color=theme.ink,
                markersize=10,
                markeredgecolor=theme.ink,
                markeredgewidth=1.6,
                zorder=4,
                label="what it could reach at best, by formula",
            )
        axes.text(
            1.12,
            place,
            f"{ratio['median']:.2f}{note:1}",
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            size=9,
            weight="bold" if place == _best(batch) else "normal",
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda times, _: f"{times:g}" if times >= 1 else f"1/{1 / times:g}"))
    axes.set_xlabel(f"times {REFERENCE} (log scale)")
    axes.tick_params(axis="y", length=0)
    singly = any(each["label"] != each["name"] for each in batch["contestants"])
    axes.set_title(f"batch size {batch['batch_size']}{'   (* row by row)' if singly else ''}", weight="bold")


def _best(batch: Mapping[str, Any]) -> int:
    """Return the place of the fastest system that the teacher has a part in."""
    speeds = [
        0.0 if each["name"] in ("student", "hf-student") else each["speedup"]["median"] for each in batch["contestants"]
    ]
    return speeds.index(max(speeds))
