"""The picture of a comparison of speed: how many times as fast as transformers' own teacher each system is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from wheels.benchmarks.core.style import SERIES, Look, Theme, draw_row, legend, name_rows, new_figure
from wheels.benchmarks.speed.config import REFERENCE, is_library
from wheels.benchmarks.speed.table import counted

THEIRS, ALONE, DEFERRAL, VERIFIED = (
    Look("transformers' own", "#7A7A7A"),
    Look("one model alone", SERIES[5]),
    Look("deferral", SERIES[0]),
    Look("drafts that are verified", SERIES[2]),
)


def kind(name: str) -> Look:
    """Return what kind of decoding a system is."""
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
    name_rows(panels[0], [each["name"] for each in batches[0]["contestants"]])
    left, right = panels[0].get_xlim()
    panels[0].xaxis.set_major_locator(LogLocator(base=4 if right / left > 64 else 2))
    about = (
        f"student {found['student']}, teacher {found['teacher']}; {found['dtype']}, "
        f"{counted(found['threads'], 'thread')}\nbold: the fastest that is not a student alone"
    )
    kinds = [look.label for look in (THEIRS, ALONE, DEFERRAL, VERIFIED)]
    legend(figure, panels, about, kinds, loc="outside lower left", ncols=3)
    return figure


def _draw_batch(axes: Axes, batch: Mapping[str, Any], theme: Theme) -> None:
    """Draw one batch size, the first system on top."""
    reference = next(each for each in batch["contestants"] if each["name"] == REFERENCE)["tokens_per_second"]["median"]
    axes.axvline(1.0, color=theme.pale, linewidth=1.0, zorder=1)
    limit: Any = {"color": theme.ink, "ms": 10, "mec": theme.ink, "mew": 1.6, "zorder": 4}
    for row, each in enumerate(batch["contestants"]):
        ratio, note = each["speedup"], "" if each["label"] == each["name"] else "*"
        ends, text = [ratio[end] for end in ("low", "median", "high")], f"{ratio['median']:.2f}{note:1}"
        draw_row(axes, theme, kind(each["name"]), row, ends, text, best=row == _best(batch))
        if each["limit_tokens_per_second"] is not None:
            ratio = each["limit_tokens_per_second"] / reference
            axes.plot(ratio, row, "|", label="what it could reach at best, by formula", **limit)
    axes.plot([], [], color=theme.pale, lw=3.0, label="slowest to fastest round")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda times, _: f"{times:g}" if times >= 1 else f"1/{1 / times:g}"))
    axes.set_xlabel(f"times {REFERENCE} (log scale)")
    singly = any(each["label"] != each["name"] for each in batch["contestants"])
    axes.set_title(f"batch size {batch['batch_size']}{'   (* row by row)' if singly else ''}", weight="bold")


def _best(batch: Mapping[str, Any]) -> int:
    """Return the place of the fastest system that the teacher has a part in."""
    speeds = [
        0.0 if each["name"] in ("student", "hf-student") else each["speedup"]["median"] for each in batch["contestants"]
    ]
    return speeds.index(max(speeds))
