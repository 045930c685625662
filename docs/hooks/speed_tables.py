"""Tables of speed."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from table_text import interval, load, number, table


def speed(*folders: str) -> str:
    """Return deferral's speed for each pair and batch size: over the fastest teacher alone, `generate`, and limits."""
    rows = []
    for folder in folders:
        found = load(folder, "speed")
        for batch in found["batches"]:
            ways = {way["name"]: way for way in batch["contestants"]}
            mine = ways["deferral"]
            cells = [batch["reference"], _spread(mine["speedup"]), number(_over(batch, "teacher"))]
            cells += [number(_over(batch, "hf-teacher"))]
            cells += [number(mine[key]["median"]) for key in ("loop_overhead", "scheduler_overhead", "distance")]
            rows.append([_pair(found), str(batch["batch_size"]), *cells])
    head = ["teacher, student", "batch", "fastest teacher alone", "x it", "x own teacher", "x `generate`"]
    return table([*head, "loop", "overhead", "distance"], rows)


def alone(*folders: str) -> str:
    """Return the speed of every way of decoding over the fastest teacher alone, and the quality of its texts."""
    rows, metrics = [], {}
    for folder in folders:
        found = load(folder, "speed")
        for batch in found["batches"]:
            for way in batch["contestants"]:
                metrics = way["quality"] or {}
                use = "" if way["use"] is None else number(way["use"])
                second = [f"{way['tokens_per_second']['median']:,.0f}", _spread(way["speedup"]), number(way["equal"])]
                second += [interval(each, digits=1) for each in metrics.values()]
                rows.append([str(batch["batch_size"]), _marked(way, batch), use, *second])
    differences = [f"{metric}, minus the teacher's" for metric in metrics]
    head = ["batch", "way", "teacher use", "tokens a second", "x the fastest teacher alone", "equal texts"]
    return table([*head, *differences], rows)


def rivals(*folders: str) -> str:
    """Return deferral over the fastest teacher alone, and this engine's teacher over the others', by size and batch."""
    rows = []
    for folder in folders:
        found = load(folder, "speed")
        for batch in found["batches"]:
            ways = {way["name"]: way for way in batch["contestants"]}
            over = [_times(batch, "teacher", f"{name}-teacher-int8") for name in ("ct2", "llama")]
            gain = _spread(ways["deferral"]["speedup"]) if "deferral" in ways else "not timed"
            rows.append([found["teacher"], str(batch["batch_size"]), batch["reference"], gain, *over])
    head = ["teacher", "batch", "fastest teacher alone", "deferral over it"]
    return table([*head, "our teacher over CTranslate2's", "over llama.cpp's"], rows)


def _marked(way: dict[str, Any], batch: dict[str, Any]) -> str:
    """Return the name of a way, in bold where it is the reference."""
    return f"**{way['label']}**" if way["name"] == batch["reference"] else str(way["label"])


def _pair(found: dict[str, Any]) -> str:
    sizes = [found[who].split()[-1] for who in ("teacher", "student")]
    return f"{', '.join(sizes)}, {found['dtype']}"


def _spread(ratio: dict[str, float]) -> str:
    return f"{number(ratio['median'])} ({number(ratio['low'])} to {number(ratio['high'])})"


def _times(batch: dict[str, Any], one: str, other: str) -> str:
    """Return the tokens a second of one system over those of another, where both were timed."""
    timed = {way["name"] for way in batch["contestants"]}
    return number(_over(batch, other, one)) if {one, other} <= timed else "not timed"


def _over(batch: dict[str, Any], other: str, one: str = "deferral") -> float:
    """Return the tokens a second of one system over those of another: the median over the rounds."""
    tokens = {way["name"]: way["tokens"] for way in batch["contestants"]}
    rounds = [each["seconds"] for each in batch["rounds"]]
    share = tokens[one] / tokens[other]
    return statistics.median(share * each[other] / each[one] for each in rounds)


def growth(folder: str) -> str:
    """Return a step's milliseconds by model, batch and length, over the bound where it is timed, and CTranslate2's."""
    steps = load(folder, "growth")["steps"]
    lengths = sorted({step["length"] for step in steps})
    kinds = list(dict.fromkeys((step["parameters"], step["weights"], step["batch"]) for step in steps))
    rows = []
    for kind in kinds:
        of = {step["length"]: step for step in steps if kind == (step["parameters"], step["weights"], step["batch"])}
        cells = [
            f"{_three(of[length]['ms'])} ({number(of[length]['ms'] / of[length]['bound_ms'], 1)})"
            if length in of
            else "left out"
            for length in lengths
        ]
        rival = ", ".join(f"{_three(step['rival_ms'])} at {step['length']}" for step in of.values() if step["rival_ms"])
        rows.append([f"{kind[0] / 1e6:.0f}M", kind[1], str(kind[2]), *cells, rival])
    return table(["model", "weights", "batch", *(f"{length} tokens" for length in lengths), "CTranslate2"], rows)


def _three(value: float) -> str:
    """Return a number of milliseconds with two or three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


TABLES: dict[str, Callable[..., str]] = {"speed": speed, "every-way": alone, "rivals": rivals, "growth": growth}
