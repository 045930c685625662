"""Numbers and tables as Markdown has them on the results pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
NOT_MEASURED = "not measured"


def load(folder: str, name: str) -> Any:
    """Return the JSON of one committed result."""
    return json.loads((RESULTS / folder / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """Return a number, with its sign where it is a difference; None was not measured."""
    if value is None:
        return NOT_MEASURED
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-0." + "0" * digits, "0." + "0" * digits)


def interval(found: Mapping[str, Any], key: str = "difference", digits: int = 2, *, sign: bool = True) -> str:
    """Return `value [low, high]`; a value of None was not measured."""
    if found[key] is None:
        return NOT_MEASURED
    low, high = number(found["low"], digits), number(found["high"], digits)
    return f"{number(found[key], digits, sign=sign)} [{low}, {high}]"
