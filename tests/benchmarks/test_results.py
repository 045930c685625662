"""The committed results say of every figure whether it was measured, by the rule that the code has."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wheels.benchmarks.core.bootstrap import apgr, holm, is_measured
from wheels.benchmarks.curve.summary import INTERVALS, uses_shown

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
CURVES, PASSES = (sorted(RESULTS.glob(f"*/{name}.json")) for name in ("curve", "passes"))


def lines_of(curve: dict[str, Any], rule: str) -> list[list[tuple[float, float]]]:
    """Return use and share of the gap of every seed, ends included."""
    inner = [p for p in curve["points"] if p["rule"] == rule and 0 < p["budget"] < 1]
    seeds = sorted({p["seed"] for p in inner})
    return [sorted([(0.0, 0.0), *((p["use"], p["pgr"]) for p in inner if p["seed"] == s), (1.0, 1.0)]) for s in seeds]


def test_there_are_results() -> None:
    assert len(CURVES) >= 8 and len(PASSES) >= 3


@pytest.mark.parametrize("path", CURVES, ids=lambda path: path.parent.name)
def test_a_curve_has_a_figure_exactly_where_it_was_measured(path: Path) -> None:
    curve = json.loads(path.read_text())
    lines = {rule: lines_of(curve, rule) for rule in curve["rules"]}

    def there(rule: str, use: float) -> bool:
        return all(is_measured(np.array([u for u, _ in line]), use) for line in lines[rule])

    for row in curve["at_use"]:
        assert (row["value"] is not None) == there(row["rule"], row["use"]), row
    for row in curve["paired"]:
        both = there(row["rule"], row["budget"]) and there(row["baseline"], row["budget"])
        assert (row["difference"] is not None) == both, row
    for rule, areas in curve["apgr"].items():
        for name, bounds in INTERVALS.items():
            found = [apgr(*zip(*line, strict=True), *bounds) for line in lines[rule]]
            assert (areas[name] is not None) == all(map(math.isfinite, found)), (rule, name)


@pytest.mark.parametrize("path", CURVES, ids=lambda path: path.parent.name)
def test_comparisons_of_a_curve_are_corrected(path: Path) -> None:
    curve = json.loads(path.read_text())
    shown = uses_shown([budget for budget in curve["budgets"] if 0 < budget < 1])
    for rule, metric in {(row["rule"], row["metric"]) for row in curve["paired"]}:
        family = [r for r in curve["paired"] if (r["rule"], r["metric"]) == (rule, metric) and r["budget"] in shown]
        ps = [math.nan if row["p"] is None else row["p"] for row in family]
        found = [math.nan if row["p_holm"] is None else row["p_holm"] for row in family]
        assert found == pytest.approx(holm(ps), nan_ok=True, abs=1e-5)


@pytest.mark.parametrize("path", PASSES, ids=lambda path: path.parent.name)
def test_passes_have_a_figure_exactly_where_they_were_measured(path: Path) -> None:
    found = json.loads(path.read_text())

    def there(line: str, cost: float) -> bool:
        mine = [point for point in found["points"] if point["line"] == line]
        seeds = sorted({point["seed"] for point in mine if point["seed"] is not None}) or [None]
        lines = [np.sort([p["passes"] for p in mine if p["seed"] in (seed, None)]) for seed in seeds]
        return all(is_measured(passes_B, cost) for passes_B in lines)

    for row in found["at_passes"]:
        assert (row["value"] is not None) == there(row["line"], row["passes"]), row
    for row in found["versus"]:
        both = there(row["line"], row["passes"]) and there(row["baseline"], row["passes"])
        assert (row["difference"] is not None) == both, row
