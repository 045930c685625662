"""Tables of `wheels bench frontier`: text and CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wheels.benchmarks.frontier.front import PARAMETERS, TOKENS
from wheels.metrics import metric_name
from wheels.output.tables import Column, Table, band, columns, digits, estimate, number


def cost_words(cost: str) -> str:
    """Return what a cost is called."""
    known = {PARAMETERS: "parameters read a token, of the teacher's", TOKENS: "tokens that the teacher writes"}
    return known.get(cost) or f"ms a token, batch {cost.split()[-1]}"


def cost_head(cost: str) -> str:
    """Return the heading of a cost's column."""
    return {PARAMETERS: "parameters", TOKENS: "teacher tokens"}.get(cost) or f"ms, batch {cost.split()[-1]}"


def spent(cost: str, value: float | None) -> str:
    """Return a cost for print: shares with two digits, seconds a token in milliseconds."""
    if cost in (PARAMETERS, TOKENS):
        return number(value, 2)
    return number(None if value is None else 1000 * value, 3)


def cost_columns(costs: Sequence[str]) -> list[Column]:
    """Return a column for each cost of a point."""

    def show(cost: str) -> Callable[[float | None], str]:
        return lambda value: spent(cost, value)

    return [Column(cost_head(cost), f"costs.{cost}.value", show(cost)) for cost in costs]


def points_text(found: Mapping[str, Any]) -> str:
    """Return quality and costs of every way."""
    metrics, costs = list(found["metrics"]), list(found["points"][0]["costs"])
    shown = [Column("way", "name")]
    shown += [Column(metric_name(m), f"metrics.{m}", lambda row: estimate(row["value"], row, 1)) for m in metrics]
    return Table.of(shown + cost_columns(costs), found["points"]).text(
        "quality and costs (parameters: read for a token, of those that the teacher alone reads; teacher tokens: the "
        "share that it writes)"
    )


def versus_text(found: Mapping[str, Any], metric: str) -> str:
    """Return what each way has above the line of models alone at equal cost, the claims marked."""
    rows = [row for row in found["versus"] if row["metric"] == metric]
    ways = dict.fromkeys((row["line"], row["budget"]) for row in rows)
    cells = {(row["line"], row["budget"], row["cost"]): row for row in rows}
    costs = list(dict.fromkeys(row["cost"] for row in rows))
    lines = [[f"{line}, {budget:g}", *(_above(cells[line, budget, cost]) for cost in costs)] for line, budget in ways]
    title = f"{metric_name(metric)} above the line of models alone at equal cost [95% interval]"
    title += " (p: corrected by Holm over the claims; without p: exploratory; -: cheaper than every model alone)"
    return Table(["way, budget", *map(cost_head, costs)], lines).text(title)


def _above(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return "-"
    p = f" p {row['p_holm']:.3f}" if row["claimed"] else ""
    return f"{number(row['difference'], 2, '+')} {band(row)}{p}"


def beside_text(found: Mapping[str, Any], metric: str) -> str:
    """Return what students of one size have above each other, the same way of both."""
    shown = [
        Column("student", lambda row: f"{row['student']} minus {row['other']}"),
        Column("way, budget", lambda row: f"{row['rule']}, {row['method']}, {row['budget']:g}".removeprefix(", ")),
        Column("use of both", lambda row: f"{number(row['use'], 3)} {number(row['other_use'], 3)}"),
        Column(metric_name(metric), lambda row: f"{number(row['difference'], 2, '+')} {band(row)}"),
    ]
    rows = [row for row in found["beside"] if row["metric"] == metric]
    return Table.of(shown, rows).text("students of one size beside each other [95% interval], exploratory")


def cheapest_text(found: Mapping[str, Any]) -> str:
    """Return the cheapest way for each share of the teacher's score."""
    shown = [
        Column("of the teacher's", "level", lambda level: f"{level:.0%}"),
        Column("cost", "cost", cost_head),
        Column("cheapest way", "way"),
        Column("it costs", lambda row: spent(row["cost"], row["spent"]["value"])),
        Column("and keeps", "share", _percent),
        Column("models alone, mixed", lambda row: spent(row["cost"], row["line_spent"])),
    ]
    title = f"the cheapest way, chosen on other rows where it holds in {found['confidence']:.0%} of the resamples"
    return Table.of(shown, found["cheapest"]).text(f"{title}; kept: percent of the teacher's score [95% interval]")


def _percent(share: Mapping[str, float | None]) -> str:
    """Return a share with its interval in percent."""
    found = {name: None if value is None else 100 * value for name, value in share.items()}
    return f"{number(found['value'])} {band(found, 1)}"


def shown(found: Mapping[str, Any]) -> str:
    """Return all tables as text."""
    metrics = list(found["metrics"])
    parts = [f"{found['task']}: {found['rows']} rows; teacher {found['teacher']['name']}"]
    parts += ["\n".join(f"note: {note}" for note in found["notes"])] if found["notes"] else []
    parts += [points_text(found), versus_text(found, metrics[0])]
    parts += [beside_text(found, metrics[0])] if found["beside"] else []
    return "\n\n".join([*parts, cheapest_text(found)])


def as_csv(found: Mapping[str, Any]) -> str:
    """Return every way, a line each."""
    head = columns("student", "method", "rule", "budget", "tokens_per_text")
    metrics, costs = list(found["metrics"]), list(found["points"][0]["costs"])
    for name, keys in (("metrics", metrics), ("costs", costs)):
        for key in keys:
            word = key.replace(" ", "_")
            head += [
                Column(word, f"{name}.{key}.value", digits(5)),
                Column(f"{word}_low", f"{name}.{key}.low", digits(5)),
            ]
            head += [Column(f"{word}_high", f"{name}.{key}.high", digits(5))]
    return Table.of([*head, Column("signature")], found["points"]).csv()
