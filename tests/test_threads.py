"""Tests of `wheels.threads`: how many threads a command has, and how they wait; a library changes neither."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.marks import slow
from wheels import threads
from wheels.threads import COUNTS, SMALL, WAITING, set_threads, sleep_when_idle, usable_processors


def test_idle_threads_sleep_unless_the_user_says_how_they_wait() -> None:
    found: dict[str, str] = {"OMP_NUM_THREADS": "2"}
    sleep_when_idle(found)
    assert found == {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    for name in WAITING:
        found = {name: "7"}
        sleep_when_idle(found)
        assert found == {name: "7"}


@pytest.mark.parametrize(
    ("code", "policy"),
    [
        ("from wheels.cli.main import main; import sys; sys.argv = ['wheels', '--version']; main()", "PASSIVE"),
        ("from wheels.cli.main import main; main(['--version'])", ""),
        *slow(("import wheels; wheels.Model", "")),
    ],
)
def test_a_command_sets_it_before_torch_and_a_library_never(code: str, policy: str) -> None:
    code = f"import os, sys; {code}; print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY', ''))"
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1].split() == [str("Model" in code), *([policy] if policy else [])]


def pair(*sizes: int) -> Any:
    return SimpleNamespace(models=[SimpleNamespace(num_parameters=lambda size=size: size) for size in sizes])


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What torch is set to, on a machine with 8 processors of which 6 may be used."""
    found: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(threads, "_own_choice", lambda: 8)
    monkeypatch.setattr(threads, "usable_processors", lambda: 6)
    for name in COUNTS:
        monkeypatch.delenv(name, raising=False)
    yield found


@pytest.mark.parametrize(
    ("asked", "pairs", "number"),
    [
        (None, [pair(SMALL // 10, SMALL)], 1),
        (None, [pair(SMALL // 10, SMALL + 1)], 6),
        (None, [pair(SMALL + 1, SMALL)], 6),
        (None, [pair(1, 2), pair(1, 2 * SMALL)], 6),
        (3, [pair(1, 2)], 3),
        (7, [pair(1, 2 * SMALL)], 7),
    ],
)
def test_threads_are_those_asked_for_or_go_by_the_largest_model(
    chosen: list[int], asked: int | None, pairs: list[Any], number: int
) -> None:
    set_threads(asked, *pairs)
    assert chosen == [number]


def test_torchs_own_choice_is_never_exceeded(chosen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_own_choice", lambda: 4)
    set_threads(None, pair(1, 2 * SMALL))
    assert chosen == [4]


@pytest.mark.parametrize("name", COUNTS)
def test_what_the_environment_says_stays(chosen: list[int], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "2")
    set_threads(None, pair(1, 2))
    assert chosen == []
    set_threads(5, pair(1, 2))
    assert chosen == [5]


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("max 100000", 4),
        ("800000 100000", 4),
        ("250000 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("", 4),
        (None, 4),
    ],
)
def test_a_quota_and_an_affinity_say_what_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 4, 6}, raising=False)
    monkeypatch.setattr(threads, "GROUP", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_processors() == count
