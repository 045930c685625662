"""Tables of quality against teacher use, and against teacher passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from table_text import NOT_MEASURED, interval, load, number, table

USES = (0.1, 0.2, 0.3)
COSTS = (0.1, 0.2, 0.3, 0.4)


def shares(folder: str) -> str:
    """Return the share of the gap (PGR) of each rule at equal use, in each metric, and its area beside maxprob's."""
    curve = load(folder, "curve")
    found = {(row["rule"], row["use"], row["metric"]): row["pgr"] for row in curve["at_use"]}
    areas = {row["rule"]: row for row in curve.get("apgr_paired", ()) if row["baseline"] == "maxprob"}

    def order(rule: str) -> float:
        known = [value for use in USES if (value := found.get((rule, use, curve["metrics"][0]))) is not None]
        return sum(known) / max(1, len(known))

    def cell(rule: str, use: float) -> str:
        values = [found.get((rule, use, metric)) for metric in curve["metrics"]]
        return NOT_MEASURED if None in values else " / ".join(map(number, values))

    def area(rule: str) -> str:
        if rule == "maxprob":
            return ""
        return _area(areas.get(rule))

    head = ["rule", *(f"use {use:g}" for use in USES), "area up to 0.3, minus maxprob's"]
    rows = [[_name(rule), *(cell(rule, use) for use in USES), area(rule)] for rule in sorted(curve["rules"], key=order)]
    if all(row[-1] in ("", NOT_MEASURED) for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return table(head, rows)


def _area(row: dict[str, Any] | None) -> str:
    """Return a difference of areas as a share of the square that use up to 0.3 has."""
    if row is None or row["difference"] is None:
        return NOT_MEASURED
    width = row["high_use"] - row["low_use"]
    return interval({key: row[key] / width for key in ("difference", "low", "high")})


def _name(rule: str) -> str:
    return f"**{rule}**" if rule in ("learned", "tuned") else rule


def minus(folder: str, baselines: str) -> str:
    """Return `learned` minus other rules at equal use, with intervals and Holm's p, in each metric.

    The baseline `threshold` is whichever of the student's own probabilities is best at that use.
    """
    curve = load(folder, "curve")
    rows = []
    for baseline in baselines.split(","):
        key, value = ("against", "best trivial") if baseline == "threshold" else ("baseline", baseline)
        for metric in curve["metrics"]:
            ours = [row for row in curve["paired"] if (row["rule"], row["metric"]) == ("learned", metric)]
            if found := {row["budget"]: row for row in ours if row[key] == value}:
                name = "best threshold" if baseline == "threshold" else baseline
                rows.append([name, metric, *(_difference(found.get(use)) for use in USES)])
    return table(["minus", "metric", *(f"use {use:g}" for use in USES)], rows)


def _difference(row: dict[str, Any] | None) -> str:
    if row is None or row["difference"] is None:
        return NOT_MEASURED
    p = row.get("p_holm")
    holm = "" if p is None else ", p < 0.01" if p < 0.005 else f", p {p:.2f}"
    return interval(row) + holm


def least(folder: str) -> str:
    """Return the least use at which each rule recovers a share of the gap, in the first metric."""
    found = load(folder, "curve")["cpt"]
    shares = list(next(iter(found.values())))
    rows = [[_name(rule), *(number(each[share]) for share in shares)] for rule, each in found.items()]
    return table(["rule", *(f"{share}% of the gap" for share in shares)], rows)


def ends(*folders: str) -> str:
    """Return the quality of student and teacher alone on each set."""
    rows = []
    for folder in folders:
        curve = load(folder, "curve")
        for metric in curve["metrics"]:
            values = [number(curve[who]["metrics"][metric], 1) for who in ("student", "teacher")]
            rows.append([folder.replace("_", " "), f"{curve['sentences']:,}", metric, *values])
    return table(["set", "test rows", "metric", "student", "teacher"], rows)


def budgets(*folders: str) -> str:
    """Return how far measured use was from the budget, by folder and rule."""
    rows = []
    for folder in folders:
        curve = load(folder, "curve")
        for rule in curve["rules"]:
            kept = curve["adherence"].get(rule)
            if kept is not None:
                broken = "" if kept["violations"] is None else f"{kept['violations']}"
                errors = [number(kept[key], 4) for key in ("mean_abs_error", "worst_abs_error")]
                rows.append([curve["mode"], rule, *errors, broken])
    return table(["mode", "rule", "mean error of use", "worst", "prefixes above the budget"], rows)


def passes(folder: str, metric: str) -> str:
    """Return each way minus the best of the others at equal passes per token, with intervals."""
    found = load(folder, "passes")
    rows = [row for row in found["versus"] if row["metric"] == metric]
    best = {row["passes"]: row["baseline"] for row in rows}
    lines = list(dict.fromkeys(row["line"] for row in rows))
    cells = {(row["line"], row["passes"]): interval(row) for row in rows if row["difference"] is not None}
    body = [["best of the others", *(best.get(cost, "") for cost in COSTS)]]
    for line in sorted(lines, key=lambda line: (line == "tuned", lines.index(line))):
        body.append([_name(line), *(cells.get((line, cost), NOT_MEASURED) for cost in COSTS)])
    return table([f"{metric}, minus the best of the others", *(f"{cost:g} passes" for cost in COSTS)], body)


TABLES: dict[str, Callable[..., str]] = {
    "shares": shares,
    "minus": minus,
    "least": least,
    "ends": ends,
    "budgets": budgets,
    "passes": passes,
}
