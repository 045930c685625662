"""Tables of speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from table_text import load, number, table


def speed(*folders: str) -> str:
    """Return deferral's speed for each pair and batch size: over `generate`, over its own teacher, and over limits."""
    rows = []
    for folder in folders:
        found = load(folder, "speed")
        for batch in found["batches"]:
            ways = {way["name"]: way for way in batch["contestants"]}
            mine, lockstep = ways["deferral"], ways.get("deferral-lockstep")
            cells = [_spread(mine["speedup"]), number(lockstep["speedup"]["median"]) if lockstep else "", _own(batch)]
            cells += [number(mine[key]["median"]) for key in ("loop_overhead", "scheduler_overhead", "distance")]
            rows.append([_pair(found), str(batch["batch_size"]), *cells])
    head = ["teacher, student", "batch", "x the teacher's own `generate`", "lock-step", "x own teacher"]
    return table([*head, "loop", "overhead", "distance"], rows)


def alone(*folders: str) -> str:
    """Return the speed of every way of decoding over the teacher's `generate`."""
    rows = []
    for folder in folders:
        found = load(folder, "speed")
        for batch in found["batches"]:
            for way in batch["contestants"]:
                use = "" if way["use"] is None else number(way["use"])
                second = [f"{way['tokens_per_second']['median']:,.0f}", _spread(way["speedup"])]
                rows.append([str(batch["batch_size"]), way["label"], use, *second])
    return table(["batch", "way", "teacher use", "tokens a second", "x the teacher's own `generate`"], rows)


def _pair(found: dict[str, Any]) -> str:
    sizes = [found[who].split()[-1] for who in ("teacher", "student")]
    return f"{', '.join(sizes)}, {found['dtype']}"


def _spread(ratio: dict[str, float]) -> str:
    return f"{number(ratio['median'])} ({number(ratio['low'])} to {number(ratio['high'])})"


def _own(batch: dict[str, Any]) -> str:
    """Return the median over the rounds of the teacher's seconds over deferral's, both in this engine."""
    ratios = sorted(round_["seconds"]["teacher"] / round_["seconds"]["deferral"] for round_ in batch["rounds"])
    return number(ratios[len(ratios) // 2])


TABLES: dict[str, Callable[..., str]] = {"speed": speed, "every-way": alone}
