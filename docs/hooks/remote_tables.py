"""Tables of a teacher far away: its latency, and its dollars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from table_text import interval, load, number, table


def latency(folder: str) -> str:
    """Return tokens a second at each latency and span, over those of the engine with both models here."""
    found = load(folder, "latency")
    rows = {(row["batch_size"], row["latency_ms"], row["span"], row["write_on"]): row for row in found["rows"]}
    shown = []
    for batch in found["config"]["batch_sizes"]:
        here = rows[batch, None, 1, False]
        shown.append([str(batch), "both models here", "1", _rate(here), "", "", number(here["use"])])
        for added in found["config"]["latencies"]:
            for span in found["config"]["spans"]:
                waits, on = rows[batch, added, span, False], rows.get((batch, added, span, True))
                cells = [_rate(waits), "" if on is None else _rate(on), "" if on is None else f"{on['hidden']:.0%}"]
                shown.append([str(batch), f"{added:g} ms", str(span), *cells, number(waits["use"])])
    return table(["texts in flight", "latency", "span", "waiting", "writing on", "guessed", "use"], shown)


def _rate(row: dict[str, Any]) -> str:
    spread = row["tokens_per_second"]
    return f"{spread['median']:.0f} ({spread['low']:.0f} to {spread['high']:.0f})"


def money(folder: str, metric: str) -> str:
    """Return what each way cost, how it kept its ceiling, and what quality it bought."""
    found = load(folder, "money")
    thousand, shown = 1000 / found["texts"], []
    for row in found["rows"]:
        kept = "" if row["kept"] is None else f"{row['kept']:.2%}"
        share = "" if row["share"] is None else f"{row['share']:g}"
        dollars, more = row["dollars"] * thousand, row[metric]["more"]
        bought = number(more / dollars / 100, 1) if dollars else ""
        quality = [number(row[metric]["value"], 1), interval(row[metric], "more", 1), bought]
        shown.append([share, row["way"], number(100 * dollars, 2), kept, number(row["use"]), *quality])
    names = [metric.upper() if metric == "bleu" else metric, "more than the student", "more, a cent"]
    return table(["ceiling", "way", "cents", "of the ceiling", "use", *names], shown)


TABLES: dict[str, Callable[..., str]] = {"latency": latency, "money": money}
