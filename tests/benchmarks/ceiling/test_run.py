"""`wheels bench ceiling`: budgets are kept, no rule is above, a run that was stopped goes on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.decoding.tiny import save_artefact
from wheels.benchmarks.ceiling import call_sets
from wheels.benchmarks.ceiling import run as module
from wheels.benchmarks.ceiling.ceilings import IMITATION
from wheels.benchmarks.ceiling.config import CeilingConfig
from wheels.benchmarks.ceiling.run import run
from wheels.benchmarks.ceiling.table import as_text
from wheels.benchmarks.core import decodes
from wheels.errors import WheelsError
from wheels.policy.calibration import Calibration, Point

pytestmark = pytest.mark.slow

ROWS = [("a b c", "a b"), ("k j i h", "c d"), ("d", "e"), ("e a e a", "f g"), ("c c", "h"), ("h b k", "j k a")]
BUDGETS = (0.1, 0.2, 0.3, 0.4, 0.5)


def config_in(folder: Path) -> CeilingConfig:
    model = save_artefact(folder / "model")
    points = [Point("learned", seed, budget, 0.1 - budget, budget) for seed in (0, 1) for budget in BUDGETS]
    points += [Point("margin", 0, budget, -1.2 * budget, budget) for budget in BUDGETS]
    Calibration(points).save(model / "deferral" / "calibration.json")
    lines = [json.dumps({"source": source, "target": target}) + "\n" for source, target in ROWS]
    (folder / "test.jsonl").write_text("".join(lines))
    return config_of(folder)


def config_of(folder: Path) -> CeilingConfig:
    return CeilingConfig(
        model=str(folder / "model"), data=str(folder / "test.jsonl"), budgets=BUDGETS, rules=("margin", "learned"),
        metrics=("rougeL", "chrf"), max_new_tokens=6, seeds=2, resamples=100, output=str(folder / "out"),
    )  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> CeilingConfig:
    return config_in(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ceiling")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What one run found: the tests that share it change nothing."""
    return run(config_in(folder))


def test_every_ceiling_keeps_its_budget_and_no_rule_is_above_it(found: dict[str, Any]) -> None:
    points = [point for point in found["points"] if 0 < point["budget"] < 1]
    ceilings = {
        name: [p for p in points if p["rule"] == name] for name in ("ceiling-rougeL", "ceiling-chrf", IMITATION)
    }
    assert all(len(mine) == len(BUDGETS) for mine in ceilings.values())
    assert all(0 < p["use"] <= p["budget"] for mine in ceilings.values() for p in mine)
    assert found["search"]["closed"] == len(ROWS)
    for metric in ("rougeL", "chrf"):
        for ceiling in ceilings[f"ceiling-{metric}"]:
            under = [p["metrics"][metric] for p in points if p["use"] <= ceiling["budget"]]
            assert len(under) > 3 and max(under) == ceiling["metrics"][metric] > found["student"][metric]


def test_more_budget_gives_no_less(found: dict[str, Any]) -> None:
    for metric in found["metrics"]:
        mine = [p["metrics"][metric] for p in found["points"] if p["rule"] == f"ceiling-{metric}"]
        assert mine == sorted(mine) and mine[0] < mine[-1]


def test_the_decodes_of_the_found_sets_are_the_texts_that_were_found(found: dict[str, Any]) -> None:
    """What the search says of a corpus is what the engine's own decode of the chosen sets measures."""
    measured = {(p["rule"], p["budget"]): p["metrics"] for p in found["points"]}
    for half in found["search"]["half"]:
        if half["rule"] != IMITATION:
            metric = half["rule"].removeprefix("ceiling-")
            assert half["value"] == pytest.approx(measured[half["rule"], half["budget"]][metric])
        assert half["half"] == half["value"], "a closed row is not halved"


def test_results_are_written(folder: Path, found: dict[str, Any]) -> None:
    kept = json.loads((folder / "out" / "ceiling.json").read_text())
    assert kept["search"]["texts"] == found["search"]["texts"] and kept["rules"] == ["random", "margin", "learned"]
    rows = list(csv.DictReader((folder / "out" / "ceiling.csv").open()))
    assert len(rows) == len(found["at_use"]) and {row["rule"] for row in rows} >= {"ceiling-chrf", IMITATION, "random"}
    assert (folder / "out" / "ceiling.png").read_bytes().startswith(b"\x89PNG")
    said = as_text(found)
    assert "6 of 6 rows closed" in said and "knows the references, and no rule can" in said
    assert all(f"\n{name} " in said for name in (*kept["rules"], IMITATION, "ceiling"))


def test_a_run_that_was_stopped_searches_only_what_is_missing(
    config: CeilingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 2)
    real, parts = module.search, list[list[int]]()

    def search(searches: Any, *others: Any) -> int:
        if len(parts) == 2:
            raise KeyboardInterrupt
        parts.append(list(searches))
        return real(searches, *others)

    monkeypatch.setattr(module, "search", search)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert parts == [[0, 1], [2, 3]]
    parts[:] = [[]]
    whole = run(config)
    assert parts == [[], [4, 5]] and whole["search"]["closed"] == len(ROWS)
    for each in (decodes, call_sets):
        monkeypatch.setattr(each, "decode", lambda *args, **kwargs: pytest.fail("decoded again"))
    assert json.dumps(run(config)["at_use"]) == json.dumps(whole["at_use"])


def test_few_texts_leave_rows_open_and_say_what_half_of_them_found(config: CeilingConfig) -> None:
    found = run(replace(config, texts=8, rules=()))
    assert found["search"]["closed"] < len(ROWS) and found["search"]["texts"] <= 8 * len(ROWS)
    halves = [half for half in found["search"]["half"] if half["rule"] == "ceiling-rougeL"]
    assert all(half["half"] <= half["value"] for half in halves)
    assert any(half["half"] < half["value"] for half in halves)


def test_the_search_begins_with_the_calls_of_every_rule(config: CeilingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, real = list[list[Any]](), module.RowSearch
    monkeypatch.setattr(module, "RowSearch", lambda sets, most: starts.append(list(sets)) or real(sets, most))
    run(replace(config, seeds=1))
    assert [len(sets) for sets in starts] == [1 + 3 * len(BUDGETS)] * len(ROWS), "the teacher's, and three rules'"
    assert all(any(len(sets[0]) >= len(calls) > 0 for calls in sets) for sets in starts)


def test_another_search_is_refused_in_the_same_folder(folder: Path, found: dict[str, Any]) -> None:
    assert found["search"]["most"] == 400
    with pytest.raises(WheelsError, match="holds a run with texts 400, not 8"):
        run(replace(config_of(folder), texts=8))


@pytest.mark.parametrize("budgets", [(0.0, 0.2), (1.0,)])
def test_budgets_at_the_ends_are_refused(config: CeilingConfig, budgets: tuple[float, ...]) -> None:
    with pytest.raises(WheelsError, match=r"budgets must lie between 0 and 1, got .*; both ends are decoded anyway"):
        replace(config, budgets=budgets)
