"""The tables of a curve's page: a row a rule, the best of each column in bold, intervals below the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from wheels.benchmarks.curve.summary import BASELINE, TRIVIAL, interior, uses_shown
from wheels.benchmarks.curve.table import WHERE_MEASURED, row_at
from wheels.metrics import metric_name
from wheels.output.tables import Cell, Table, digits, number

BOLD = "Bold: the best in its column, foresight aside."
DASH = "\N{EN DASH}"
"""Of a number that does not exist."""


def equal_use(curve: Mapping[str, Any]) -> str:
    """Return each metric at equal use, with intervals."""
    parts, uses = ["<h2>Quality at equal teacher use</h2>"], uses_shown(interior(curve))
    for metric in curve["metrics"]:
        columns = [_names(curve, curve["rules"])]
        for use in uses:
            rows = [row_at(curve, rule, metric, use) for rule in curve["rules"]]
            notes = [_below(row, row["pgr"]) for row in rows]
            columns.append(_scores(curve["rules"], [row["value"] for row in rows], number, notes))
        parts.append(_of_columns(["rule", *(f"{metric_name(metric)} at {use:.0%}" for use in uses)], columns))
    return "".join(parts) + (
        f'<p class="pale">{BOLD} Interpolated to exactly this use, mean over seeds. Below each value: its 95% '
        "interval, by a bootstrap over rows and seeds, and the share of the gap. "
        f"A dash: {WHERE_MEASURED}.</p>"
    )


def areas(curve: Mapping[str, Any]) -> str:
    """Return areas and thresholds."""
    head, columns = ["rule"], [_names(curve, curve["rules"])]
    for interval, name in {"0-0.3": "area to 30% use", "0-1": "whole area"}.items():
        values = [curve["apgr"][rule][interval] for rule in curve["rules"]]
        head.append(name)
        columns.append(_scores(curve["rules"], values, digits(3)))
    for level in curve["cpt"][curve["rules"][0]]:
        values = [curve["cpt"][rule][level] for rule in curve["rules"]]
        head.append(f"use for {level}%")
        columns.append(_scores(curve["rules"], values, digits(2), best=min))
    return (
        f"<h2>Areas and thresholds</h2>{_of_columns(head, columns)}"
        '<p class="pale">The area under the share of the gap over teacher use (APGR; a straight line has 0.045 and '
        "0.5). Then the least use that recovers 50, 80 and 95% of the gap (CPT).</p>"
    )


def comparisons(curve: Mapping[str, Any]) -> str:
    """Return the paired comparisons: a row a pair of rules, a column a use."""
    if not curve["paired"]:
        return ""
    parts, uses = ["<h2>Comparisons</h2>"], uses_shown(interior(curve))
    for metric in curve["metrics"]:
        tests = {
            (test["rule"], _against(test), test["budget"]): test for test in curve["paired"] if test["metric"] == metric
        }
        rows = [
            [Cell(rule, f"minus {against}"), *(_difference(tests[rule, against, use]) for use in uses)]
            for rule, against in dict.fromkeys(key[:2] for key in tests)
        ]
        head = [f"{metric_name(metric)}, difference", *(f"at {use:.0%}" for use in uses)]
        parts.append(Table(head, rows).html())
    return "".join(parts) + (
        '<p class="pale">Differences at exactly equal use, with 95% intervals: a paired bootstrap over rows and seeds. '
        "Pale: chance alone could explain it. The best threshold is chosen on these very rows, which favours it. p is "
        "two-sided and, by Holm, corrected for the comparisons of that rule in this table. Every other budget stands "
        "in curve.json, and its comparisons are exploratory. The bootstrap draws trained heads as seeds: heads of one "
        "training share its states, its pairs and the rows of the thresholds.</p>"
    )


def _against(test: Mapping[str, Any]) -> str:
    """Return what a rule is compared with; which threshold is the best, or none there, a cell says."""
    return "the best threshold" if test["against"] in ("best trivial", *TRIVIAL) else str(test["against"])


def _difference(test: Mapping[str, Any]) -> Cell:
    """Return one comparison; pale where its interval holds 0."""
    if not math.isfinite(test["difference"]):
        return Cell(DASH, pale=True)
    notes = [f"over {test['baseline']}"] if test["against"] == "best trivial" else []
    if math.isfinite(test["p"]):
        corrected = test["p_holm"] if math.isfinite(test["p_holm"]) else test["p"]
        notes += [f"{test['low']:+z.2f} to {test['high']:+z.2f}", f"p {number(corrected, 3)}"]
    clear = test["low"] > 0.0 or test["high"] < 0.0
    return Cell(number(test["difference"], 2, "+"), "\n".join(notes), pale=not clear)


def at_budget(curve: Mapping[str, Any]) -> str:
    """Return every rule at the budget nearest to 0.2."""
    lines, rules = curve["at_budget"], [line["rule"] for line in curve["at_budget"]]
    budget, scored = lines[0]["budget"], [line["metrics"][curve["metrics"][0]] for line in lines]
    below = [_below(score, line["pgr"]["value"]) for score, line in zip(scored, lines, strict=True)]
    columns: dict[str, Sequence[Cell | str]] = {
        "rule": [Cell(line["rule"], f"use {number(line['use'], 3)}") for line in lines],
        metric_name(curve["metrics"][0]): _scores(rules, [score["value"] for score in scored], number, below),
        "passes per token": [
            Cell(number(line["passes_per_token"], 3), f"{number(line['positions_per_token'], 2)} positions")
            for line in lines
        ],
    }
    shares = [row_at(curve, rule, curve["metrics"][0], budget).get("foresight_share", math.nan) for rule in rules]
    if any(map(math.isfinite, shares)):
        columns["foresight share"] = _scores(rules, shares, lambda share: f"{share:z.0%}")
    found = {test["rule"]: test for test in curve["apgr_paired"] if math.isfinite(test["low"])}
    if found:
        gains = [found[rule]["difference"] if rule in found else math.nan for rule in rules]
        below = [
            f"{found[rule]['low']:+z.3f} to {found[rule]['high']:+z.3f}" if rule in found else "" for rule in rules
        ]
        columns[f"area over {BASELINE}"] = _scores(rules, gains, digits(3, "+"), below)
    words = (
        "The decodes at this budget, each at the use that it came to, mean over seeds; 95% intervals by a bootstrap "
        "over rows and seeds. Passes and positions are the teacher's, per generated token. The foresight share is "
        f"(rule - random) / (foresight - random) at use {budget:g} exactly. The area is that under the share of the "
        f"gap up to use 0.3, minus that of {BASELINE}: a paired bootstrap."
    )
    shown = _of_columns(list(columns), list(columns.values()))
    return f'<h2>At budget {budget:g}</h2>{shown}<p class="pale">{words}</p>'


def adherence(curve: Mapping[str, Any]) -> str:
    """Return how far each rule's use was from the budgets, and what use most single outputs stay within."""
    strict, rows = curve["mode"] == "strict", []
    for name, kept in zip(_names(curve, curve["rules"]), curve["adherence"].values(), strict=True):
        within = [number(share, 2) for share in kept["use_p95"].values()]
        rows.append([name, number(kept["mean_abs_error"], 3), *within, *([str(kept["violations"])] if strict else [])])
    head = ["rule", "mean error", *(f"at {budget:.0%}" for budget in interior(curve))]
    head += ["violations"] if strict else []
    return Table(head, rows).html() + (
        '<p class="pale">The mean distance of measured use from the budget; then, budget by budget, the use that 95% '
        "of the single outputs stay within.</p>"
    )


def _of_columns(head: Sequence[str], columns: Sequence[Sequence[Cell | str]]) -> str:
    """Return the table that columns make."""
    return Table(head, list(zip(*columns, strict=True))).html()


def _names(curve: Mapping[str, Any], rules: Iterable[str]) -> list[Cell]:
    """Return the first column: each rule with its number of seeds."""
    counts = {rule: len(curve["seeds"][rule]) for rule in rules}
    return [Cell(rule, f"{count} seeds" if count > 1 else "") for rule, count in counts.items()]


def _scores(
    rules: Sequence[str],
    values: Sequence[float],
    show: Callable[[float], str],
    notes: Sequence[str] = (),
    *,
    best: Callable[..., float] = max,
) -> list[Cell]:
    """Return a column of numbers, the best in bold; foresight is no method, so it is never the best."""
    known = [value for rule, value in zip(rules, values, strict=True) if rule != "foresight" and math.isfinite(value)]
    top = show(best(known)) if known else None
    cells = []
    for rule, value, note in zip(rules, values, notes or [""] * len(rules), strict=True):
        text = show(value) if math.isfinite(value) else DASH
        cells.append(Cell(text, note, best=text == top and rule != "foresight", pale=not math.isfinite(value)))
    return cells


def _below(value: Mapping[str, float], share: float) -> str:
    """Return what stands below a value: its interval, and the share of the gap."""
    between = f"{number(value['low'])} to {number(value['high'])}" if math.isfinite(value["low"]) else ""
    return "\n".join(filter(None, [between, f"{share:z.0%} of gap" if math.isfinite(share) else ""]))
