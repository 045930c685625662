"""Each job of each turn of each seed draws by a seed of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.agents.seed_runs import seed_run
from tests.envs.tiny import ROWS, make_pair


def test_no_two_jobs_draw_by_one_seed(tmp_path: Path) -> None:
    """Rounds, chunks, and the texts on which prices settle; a seed is a whole number that no generator refuses."""
    run = seed_run(make_pair("t5"), ROWS, tmp_path)
    numbers = [*range(30), *range(1000, 1006)]
    seeds = [
        replace(run, seed=seed, turn=turn).draws(number) for seed in range(4) for turn in range(4) for number in numbers
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(isinstance(seed, int) and seed >= 0 for seed in seeds)


def test_each_turn_and_seed_has_a_folder(tmp_path: Path) -> None:
    run = seed_run(make_pair("t5"), ROWS, tmp_path)
    folders = [replace(run, seed=seed, turn=turn).folder for seed in (0, 1) for turn in (0, 1, 2)]
    assert [folder.relative_to(tmp_path / ".training").as_posix() for folder in folders] == [
        f"seed-{seed}{turn}" for seed in (0, 1) for turn in ("", "/turn-1", "/turn-2")
    ]
