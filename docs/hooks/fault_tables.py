"""The table of faults: what `python -m tests.faults.run --log` wrote."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from table_text import RESULTS, table

FAULTS = {
    "two": "second start",
    "kill": "killed",
    "term": "SIGTERM",
    "full": "full disk",
    "finished": "damaged when finished",
    "damage": "damaged underway",
}


def faults(folder: str) -> str:
    """Return how many of the faults of each command were survived, and of how many; the last line has the sums."""
    survived, played = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for line in (RESULTS / folder / "faults.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        for command in (one["command"], "all"):
            played[command, one["fault"]] += 1
            survived[command, one["fault"]] += not one["wrong"]
    commands = sorted({command for command, _ in played} - {"all"})
    rows = [
        [
            f"`{command}`" if command != "all" else "all",
            *(_cell(survived[command, f], played[command, f]) for f in FAULTS),
        ]
        for command in [*commands, "all"]
    ]
    return table(["command", *FAULTS.values()], rows)


def _cell(survived: int, played: int) -> str:
    return f"{survived} of {played}" if played else ""


TABLES: dict[str, Callable[..., str]] = {"faults": faults}
