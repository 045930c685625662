"""Tables of quality against cost, over students of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from table_text import NOT_MEASURED, interval, load, number, table

COUNTED = ("parameters", "tokens")
COSTS = {"parameters": "parameters read", "tokens": "teacher's tokens"}


def models(folder: str) -> str:
    """Return each model alone: parameters, what it costs, and its quality."""
    found = load(folder, "frontier")
    sizes = {student["name"]: student["parameters"] for student in found["students"]}
    rows = []
    for point in (point for point in found["points"] if not point["rule"]):
        size = sizes.get(point["student"], found["teacher"]["parameters"])
        quality = [interval(point["metrics"][metric], "value", 1, sign=False) for metric in found["metrics"]]
        costs = [_spent(cost, point["costs"][cost]["value"]) for cost in point["costs"] if cost != "tokens"]
        rows.append([point["student"] or "teacher", f"{size:,}", *quality, *costs])
    costs = [_cost(cost) for cost in found["points"][0]["costs"] if cost != "tokens"]
    return table(["model alone", "parameters", *found["metrics"], *costs], rows)


def above(folder: str, metric: str) -> str:
    """Return what each way has above the line of models alone at equal cost; Holm's p of the claims."""
    found = load(folder, "frontier")
    rows = [row for row in found["versus"] if row["metric"] == metric]
    cells = {(row["line"], row["budget"], row["cost"]): row for row in rows}
    costs = list(dict.fromkeys(row["cost"] for row in rows))
    quality = {(p["line"], p["budget"]): p["metrics"][metric]["value"] for p in found["points"]}
    body = []
    for line, budget in dict.fromkeys((row["line"], row["budget"]) for row in rows):
        mine = [cells[line, budget, cost] for cost in costs]
        body.append([f"{line}, {budget:g}", number(quality[line, budget], 1), *map(_above, mine)])
    return table(["way, budget", metric, *(f"above the line at equal {_cost(cost)}" for cost in costs)], body)


def _above(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return NOT_MEASURED
    p = "" if row["p_holm"] is None else ", p < 0.01" if row["p_holm"] < 0.005 else f", p {row['p_holm']:.2f}"
    text = f"{interval(row)}{p}"
    return f"**{text}**" if row["claimed"] and row["p_holm"] < 0.05 and row["low"] > 0 else text


def cheapest(folder: str) -> str:
    """Return the cheapest way for each share of the teacher's score, and what models alone cost for the same."""
    rows = []
    for row in load(folder, "frontier")["cheapest"]:
        kept = {name: None if value is None else 100 * value for name, value in row["share"].items()}
        cells = [f"{row['level']:.0%}", _cost(row["cost"]), row["way"], _spent(row["cost"], row["spent"]["value"])]
        rows.append([*cells, f"{interval(kept, 'value', 1, sign=False)}", _spent(row["cost"], row["line_spent"])])
    head = ["of the teacher's", "cost", "cheapest way", "it costs", "and keeps on test rows, %", "models alone, mixed"]
    return table(head, rows)


def beside(folder: str, metric: str, rule: str) -> str:
    """Return what students of one size have above each other, alone and by one rule."""
    rows, found = [], load(folder, "frontier")["beside"]
    for row in (row for row in found if row["metric"] == metric and row["rule"] in ("", rule)):
        way = f"{row['rule']}, {row['method']}, {row['budget']:g}" if row["rule"] else "alone"
        use = f"{row['use']:.3f}, {row['other_use']:.3f}" if row["rule"] else ""
        rows.append([f"{row['student']} minus {row['other']}", way, use, interval(row)])
    return table(["students", "way, budget", "use of both", metric], rows)


def _cost(cost: str) -> str:
    return COSTS.get(cost) or f"ms a token, batch {cost.split()[-1]}"


def _spent(cost: str, value: float | None) -> str:
    return number(value) if cost in COUNTED or value is None else number(1000 * value)


TABLES: dict[str, Callable[..., str]] = {
    "frontier-models": models,
    "frontier-above": above,
    "frontier-beside": beside,
    "frontier-cheapest": cheapest,
}
