"""How long a run takes is said before it begins: texts by hand, and the pace of a first batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.agents.seed_runs import seed_run
from tests.decoding.commands.test_calibrate import soft_pair, sources
from wheels.agents import estimate
from wheels.agents.config import TrainConfig
from wheels.agents.estimate import foretold, texts_of
from wheels.data.tasks import Row
from wheels.decoding.remote.pair import RemotePair
from wheels.models.pair import Pair

CONFIG = TrainConfig(
    student="s", teacher="t", data="d", output="o", budgets=(0.2, 0.5), pseudo_references=4, calibrate=False
)


@pytest.mark.parametrize(
    ("changes", "few", "many"),
    [
        # 10 rows: 40 references; 10 texts of states; 1 to 6 times 20 texts for prices.
        ({}, 40 + 10 + 20, 40 + 10 + 120),
        ({"seeds": 3}, 40 + 3 * 30, 40 + 3 * 130),
        ({"states": 35}, 40 + 5 + 20, 40 + 5 + 120),
        ({"agent": "pcl"}, 50, 50),
        # Two turns, each with states and 20 texts of a row.
        ({"train": "student"}, 70 + 2 * 210, 170 + 2 * 210),
        # A text, and four states forked with a call and two spans, each half a text.
        ({"spans": (2, 4)}, 70 + 200 * 7, 170 + 200 * 7),
        ({"baselines": ("paired", "gate", "router", "reinforce")}, 70 + 20 + 20 + 2560, 170 + 20 + 20 + 2560),
        # One rule, two thresholds: 3 to 13 decodes of 100 rows.
        (
            {"calibrate": True, "calibration_rules": ("learned",), "calibration_budgets": (0.2, 0.5)},
            70 + 300,
            170 + 1300,
        ),
    ],
)
def test_the_texts_of_a_run(changes: dict[str, object], few: int, many: int) -> None:
    assert texts_of(replace(CONFIG, **changes), 10, 100, length=7.0) == (few, many)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return soft_pair()


def told(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> str | None:
    """Where a plain text takes a second, and one with its forks ten."""
    rows = [Row(source, "a b c") for source in sources(12)]
    run = seed_run(
        pair, rows, tmp_path, **{"budgets": (0.2, 0.5), "calibrate": False, "batch_size": 5, "forks": 2} | settings
    )
    trial, seen = estimate._trial, []

    def paced(config: TrainConfig, pair: Pair, rows: list[Row], metric: str, states: int) -> tuple[float, float]:
        seen.append((len(rows), states))
        seconds, tokens = trial(config, pair, rows, metric, states)
        assert 0 < seconds < 10 and 1 <= tokens <= run.config.max_new_tokens
        return (10.0 if states else 1.0), tokens

    monkeypatch.setattr(estimate, "_trial", paced)
    line = foretold(run.config, pair, rows, "chrf", 0)
    assert seen == [(5, 0), (8, 2)][: 1 + bool(run.config.rounds)]
    return line


def test_a_long_run_says_about_how_long(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """48 references, 12 texts of states, 1 to 6 times 24, and 3 rounds of 7 with forks: 84 to 204 s, and 210."""
    assert told(pair, tmp_path, monkeypatch, texts=7) == "about 4 min 37 s to 5 min 12 s at the pace of a first batch"


def test_a_short_run_and_a_teacher_that_is_paid_say_nothing(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(pair, tmp_path, monkeypatch, rounds=0, pseudo_references=0, texts=3) is None
    there = RemotePair.__new__(RemotePair)
    assert foretold(CONFIG, there, [], "chrf", 0) is None
