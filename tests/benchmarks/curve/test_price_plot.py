from __future__ import annotations

import json
from pathlib import Path

from tests.pictures import drawn
from wheels.agents.runlog import Metrics
from wheels.benchmarks.curve.detail_plots import draw_prices
from wheels.benchmarks.curve.diagnostics import read_prices


def test_prices_come_back_by_budget_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for seed in (1, 0):
        log = Metrics(path, seed)
        log.write({"warm_start": {"states": 5, "held_out_r2": 0.5}})
        for number in (1, 0):
            log.write({"round": number, "loss": 1.0, "prices": {"0.5": 1.0 + seed, "0.2": 2.0 + number}})
        log.write({"round": 2, "settled": True, "use_by_budget": {}, "prices": {"0.5": 0.5, "0.2": 4.0}})
    found = read_prices(path)
    assert found == {
        0.2: {0: [(0, 2.0), (1, 3.0), (2, 4.0)], 1: [(0, 2.0), (1, 3.0), (2, 4.0)]},
        0.5: {0: [(0, 1.0), (1, 1.0), (2, 0.5)], 1: [(0, 2.0), (1, 2.0), (2, 0.5)]},
    }
    assert list(found) == [0.2, 0.5] and list(found[0.2]) == [0, 1]
    assert len(drawn(draw_prices, found).axes[0].lines) == 4


def test_a_round_that_the_log_lacks_is_not_drawn_through() -> None:
    axes = drawn(draw_prices, {0.2: {0: [(0, 1.0), (1, 2.0), (4, 3.0), (5, 4.0)]}}).axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 1], [2, 2]], [[5, 3], [6, 4]]]


def test_what_is_no_price_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"seed": 0, "round": 0, "prices": {"0.2": 2.0}}), "[]", "{", '{"step": 3, "loss": 1.0}', ""]
    path.write_text("\n".join(lines) + '\n{"seed": 0, "round": 1, "pri')
    assert read_prices(path) == {0.2: {0: [(0, 2.0)]}}
    assert read_prices(tmp_path / "none.jsonl") == {}
