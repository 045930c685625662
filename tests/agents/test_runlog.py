"""What a training run keeps: the last two checkpoints, its lines, and a bar for who looks at it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator

from wheels.agents import runlog
from wheels.agents.runlog import Checkpoints, Metrics, shared_chunks


def test_the_last_two_checkpoints_stay(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, Accelerator(cpu=True))
    assert kept.latest() is None
    for number in range(8, 12):
        kept.save(number, {"round": number})
        assert kept.latest() == {"round": number}
        names = {f"checkpoint-{each}" for each in range(max(8, number - 1), number + 1)}
        assert {place.name for place in tmp_path.glob("checkpoint-*") if place.is_dir()} == names


def test_a_damaged_checkpoint_leaves_the_one_before(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, Accelerator(cpu=True))
    for number in (1, 2):
        kept.save(number, {"round": number})
    (tmp_path / "checkpoint-2" / "process-0.pt").write_bytes(b"damaged")
    assert kept.latest() == {"round": 1}


def test_the_rounds_that_are_made_again_leave_the_metrics(tmp_path: Path) -> None:
    """Of this seed alone; what belongs to no round stays."""
    mine, other = (Metrics(tmp_path / "metrics.jsonl", seed) for seed in (0, 1))
    for metrics in (mine, other):
        for line in ({"warm_start": 1}, {"round": 0}, {"round": 1}):
            metrics.write(line)
    mine.keep_before(0)
    other.keep_before(1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"seed": 0, "warm_start": 1}, {"seed": 1, "warm_start": 1}, {"seed": 1, "round": 0}]


def test_a_line_that_is_written_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """A part that is made again notes its figures again."""
    mine, other = (Metrics(tmp_path / "metrics.jsonl", seed) for seed in (0, 1))
    for metrics in (mine, other, mine):
        metrics.write({"warm_start": 1, "teacher_tokens": 2})
        metrics.write({"turn": 1, "warm_start": 1, "teacher_tokens": 2})
        metrics.write({"round": 0, "use": 1})
        metrics.write({"gate": 1})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and [line["seed"] for line in lines] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("title", "first", "disabled"), [("texts", True, None), ("texts", False, True), (None, True, True)]
)
def test_the_first_process_shows_a_bar_of_what_has_a_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, title: str | None, first: bool, disabled: bool | None
) -> None:
    """None leaves it to tqdm, which draws on a terminal only."""
    shown = []

    def bar(items: Any, **named: Any) -> Any:
        shown.append((named["desc"], named["disable"]))
        return items

    monkeypatch.setattr(runlog, "tqdm", bar)
    process = SimpleNamespace(process_index=0, num_processes=1, is_main_process=first, wait_for_everyone=lambda: None)
    found = shared_chunks(tmp_path, "parts", range(2), lambda number: {"number": number}, process, title)  # type: ignore[arg-type]
    assert found == [{"number": 0}, {"number": 1}]
    assert shown == [(title, disabled)]
