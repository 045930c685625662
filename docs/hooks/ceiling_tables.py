"""Tables of the ceiling, and of how near each rule comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from table_text import interval, load, number, table


def ceiling(folder: str, metric: str) -> str:
    """Return one metric at equal use: each rule's, and both tops'."""
    found, cells, uses = _read(folder, metric)
    names = {rule: rule for rule in (*found["rules"], "imitation")} | {f"ceiling-{metric}": "**ceiling**"}
    rows = [
        [name, *(interval(cells[rule, use], "value", 1, sign=False) for use in uses)] for rule, name in names.items()
    ]
    ends = [
        ["student alone", number(found["student"][metric], 1)],
        ["teacher alone", number(found["teacher"][metric], 1)],
    ]
    rows += [[*end, *([""] * (len(uses) - 1))] for end in ends]
    return table([metric, *(f"use {use:g}" for use in uses)], rows)


def shares(folder: str, metric: str, top: str) -> str:
    """Return each rule's share of the way from random to the ceiling (`share`), or to imitation (`imitated`)."""
    found, cells, uses = _read(folder, metric)

    def cell(rule: str, use: float) -> str:
        row = cells[rule, use]
        if row[f"{top}_low"] is None:  # some resamples have no way to share
            return number(row[top])
        return interval({top: row[top], "low": row[f"{top}_low"], "high": row[f"{top}_high"]}, top, sign=False)

    rules = [rule for rule in (*found["rules"], "imitation") if rule != "random"]
    rules = [rule for rule in rules if (rule, top) != ("imitation", "imitated")]
    rows = [[rule, *(cell(rule, use) for use in uses)] for rule in rules]
    return table([metric, *(f"use {use:g}" for use in uses)], rows)


def _read(folder: str, metric: str) -> tuple[dict[str, Any], dict[tuple[str, float], dict[str, Any]], list[float]]:
    """Return a result, its rows of one metric by rule and use, and the uses at which random calls were measured."""
    found = load(folder, "ceiling")
    cells = {(row["rule"], row["use"]): row for row in found["at_use"] if row["metric"] == metric}
    return found, cells, [use for use in found["budgets"] if cells["random", use]["value"] is not None]


def searched(*folders: str) -> str:
    """Return what each search did, and how much of the ceiling half of its texts would have found."""
    rows = []
    for folder in folders:
        found = load(folder, "ceiling")
        did = found["search"]
        for metric in found["metrics"]:
            gains = [half["value"] - half["half"] for half in did["half"] if half["rule"] == f"ceiling-{metric}"]
            facts = [f"{did['texts']:,}", f"{did['closed']} of {found['rows']}", str(did["rounds"])]
            rows.append([folder.replace("_", " "), metric, *facts, number(max(gains), sign=True)])
    return table(["search", "metric", "texts", "rows closed", "rounds", "second half of the texts, at most"], rows)


TABLES: dict[str, Callable[..., str]] = {"ceiling": ceiling, "ceiling-shares": shares, "searched": searched}
