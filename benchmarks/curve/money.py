"""What the decodes of a curve cost in dollars, for quality against money.

Counted from who wrote each token, the same way for a teacher here and one at an address: a call is a request that reads
the source and all that stands, of which the last request's prompt is in the server's cache, and writes one token. The
teacher alone writes a text in one request. So these are dollars under a cache that forgets nothing, and not a bill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.benchmarks.curve.resampled import Measured
from wheels.decoding.remote.prices import Prices
from wheels.decoding.trace import TEACHER
from wheels.endpoints.usage import USED_NOTHING, Usage
from wheels.output.tables import Column, Table, columns

TEXTS = 1_000_000
"""Texts that dollars are told of."""


def usage_of_calls(record: Record, source: int) -> Usage:
    """Return what the calls of a text used.

    Args:
        record: The text, and who wrote each of its tokens.
        source: Tokens of its source, or of its prompt.
    """
    usage, cached = USED_NOTHING, 0
    for place, author in enumerate(record.authors):
        if author == TEACHER:
            usage += Usage(1, source + place, cached, 1)
            cached = source + place
    return usage


def dollars(records: Sequence[Record], sources: Sequence[int], prices: Prices, *, alone: bool = False) -> float:
    """Return what a million texts like these cost; `alone`: those that the teacher wrote in one request each."""
    used = [
        Usage(1, source, 0, record.tokens) if alone else usage_of_calls(record, source)
        for record, source in zip(records, sources, strict=True)
    ]
    return TEXTS * sum(map(prices.dollars, used)) / max(1, len(used))


def money_of(measured: Measured, sources: Sequence[int], prices: Prices) -> dict[str, Any]:
    """Return what `curve.json` holds of money, in dollars for a million texts.

    Args:
        measured: The decodes.
        sources: Tokens of each source.
        prices: What tokens cost.
    """

    def point(key: PointKey) -> dict[str, Any]:
        cost = dollars(measured.outputs[key], sources, prices)
        return {"rule": key.rule, "seed": key.seed, "budget": key.budget, "dollars": cost}

    return {
        "prices": vars(prices),
        "texts": TEXTS,
        "teacher": dollars(measured.outputs[TEACHER_END], sources, prices, alone=True),
        "points": [point(key) for key in measured.outputs if key not in (STUDENT_END, TEACHER_END)],
    }


def costs(found: Mapping[str, Any]) -> dict[tuple[str, int, float], float]:
    """Return the dollars of each point between the ends, by rule, seed and budget, as `curve.json` holds them."""
    points = found["details"]["money"]["points"]
    return {(point["rule"], point["seed"], point["budget"]): point["dollars"] for point in points}


def as_text(found: Mapping[str, Any]) -> str:
    """Return a table of each rule's quality and dollars at each budget, mean over seeds."""
    money, quality = found["details"]["money"], found["metrics"][0]
    known, rows = costs(found), []
    for rule in found["rules"]:
        for budget in found["budgets"]:
            own = [point for point in found["points"] if (point["rule"], point["budget"]) == (rule, budget)]
            keys = [(rule, point["seed"], budget) for point in own]
            if own and all(key in known for key in keys):
                cost, value = (sum(each) / len(own) for each in ([known[k] for k in keys], [p["quality"] for p in own]))
                rows.append({"rule": rule, "budget": budget, "dollars": cost, "of the teacher's": cost, quality: value})
    for row in rows:
        row["of the teacher's"] /= money["teacher"] or 1.0
    rows.append({"rule": "teacher", "budget": 1.0, "dollars": money["teacher"], "of the teacher's": 1.0})
    rows[-1][quality] = found["teacher"]["quality"]
    shown = [*columns("rule"), Column("budget", show="{:.2f}".format), Column("dollars", show="{:.2f}".format)]
    shown += [Column("of the teacher's", show="{:.0%}".format), Column(quality, show="{:.1f}".format)]
    return f"dollars for {TEXTS:,} texts\n{Table.of(shown, rows).text()}"
