"""The picture of a comparison of speed: each system over the fastest teacher alone, with its quality beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from wheels.benchmarks.core.style import SERIES, Look, Theme, legend, name_rows, new_figure
from wheels.benchmarks.speed.config import is_alone, is_library, is_rival
from wheels.benchmarks.speed.table import counted

THEIRS, RIVAL, ALONE, DEFERRAL, VERIFIED = (
    Look("transformers' own", "#7A7A7A"),
    Look("one model alone, CTranslate2 and llama.cpp", SERIES[3]),
    Look("one model alone", SERIES[5]),
    Look("deferral", SERIES[0]),
    Look("drafts that are verified", SERIES[2]),
)


def kind(name: str) -> Look:
    """Return what kind of decoding a system is."""
    if is_library(name):
        return THEIRS
    if is_rival(name):
        return RIVAL
    if name in ("teacher", "student"):
        return ALONE
    return DEFERRAL if name.startswith("deferral") else VERIFIED


def draw(found: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw what `speed.json` holds: a panel for each batch size, a bar for each system."""
    batches = found["batches"]
    rows, metric = max(len(batch["contestants"]) for batch in batches), metric_of(found)
    beside = f", {metric} beside it" if metric else ""
    title = f"{found['task']}: speed over the fastest teacher alone{beside}, n = {found['rows']}"
    figure = new_figure(title, max(8.2, 2.2 + 3.8 * len(batches)), 2.4 + 0.3 * rows)
    panels = figure.subplots(1, len(batches), squeeze=False, sharey=True, sharex=True)[0]
    for axes, batch in zip(panels, batches, strict=True):
        _draw_batch(axes, batch, metric, theme)
    name_rows(panels[0], [each["name"] for each in batches[0]["contestants"]])
    left, right = panels[0].get_xlim()
    panels[0].xaxis.set_major_locator(LogLocator(base=4 if right / left > 64 else 2))
    about = (
        f"student {found['student']}, teacher {found['teacher']}; {found['dtype']}, "
        f"{counted(found['threads'], 'thread')}\nbold: the fastest that is not a student alone"
    )
    kinds = [look.label for look in (THEIRS, RIVAL, ALONE, DEFERRAL, VERIFIED)]
    legend(figure, panels, about, kinds, loc="outside lower left", ncols=3)
    return figure


def metric_of(found: Mapping[str, Any]) -> str | None:
    """Return the first metric of the texts; None: they have no references."""
    return next(iter(found["batches"][0]["contestants"][0]["quality"] or {}), None)


def _draw_batch(axes: Axes, batch: Mapping[str, Any], metric: str | None, theme: Theme) -> None:
    """Draw one batch size, the first system on top."""
    ways, best = batch["contestants"], _best(batch)
    reference = next(each for each in ways if each["name"] == batch["reference"])["tokens_per_second"]["median"]
    place: Any = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center", "size": 9}
    axes.text(1.13, -0.9, "times", color=theme.pale, **place)
    if metric is not None:
        axes.text(1.29, -0.9, metric, color=theme.pale, **place)
    for row, each in enumerate(ways):
        _draw_bar(axes, each, row, theme)
        weight = "bold" if row == best else "normal"
        ratio, note = each["speedup"]["median"], "" if each["label"] == each["name"] else "*"
        axes.text(1.13, row, f"{ratio:.2f}{note:1}", weight=weight, **place)
        if metric is not None:
            axes.text(1.29, row, f"{each['quality'][metric]['value']:.1f}", weight=weight, **place)
        if each["limit_tokens_per_second"] is not None:
            limit: Any = {"color": theme.ink, "ms": 10, "mec": theme.ink, "mew": 1.6, "zorder": 5}
            at = each["limit_tokens_per_second"] / reference
            axes.plot(at, row, "|", label="what it could reach at best, by formula", **limit)
    axes.axvline(1.0, color=theme.pale, linewidth=1.0, zorder=4)
    axes.plot([], [], color=theme.pale, lw=3.0, label="slowest to fastest round")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda times, _: f"{times:g}" if times >= 1 else f"1/{1 / times:g}"))
    axes.set_xlabel(f"times {batch['reference']} (log scale)")
    singly = any(each["label"] != each["name"] for each in ways)
    axes.set_title(f"batch size {batch['batch_size']}{'   (* row by row)' if singly else ''}", weight="bold")


def _draw_bar(axes: Axes, each: Mapping[str, Any], row: int, theme: Theme) -> None:
    """Draw a bar from 1 to the median of one system, and a line from its slowest to its fastest round."""
    look, ratio = kind(each["name"]), each["speedup"]
    colour = theme.shade(look.colour)
    axes.barh(row, ratio["median"] - 1.0, left=1.0, height=0.62, color=colour, alpha=0.75, label=look.label, zorder=2)
    axes.plot([ratio["low"], ratio["high"]], [row, row], color=colour, lw=3.0, zorder=3)


def _best(batch: Mapping[str, Any]) -> int:
    """Return the place of the fastest system that the teacher has a part in."""
    speeds = [0.0 if is_alone(each["name"], "student") else each["speedup"]["median"] for each in batch["contestants"]]
    return speeds.index(max(speeds))
