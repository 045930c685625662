"""Which kernel is fastest: measured once, remembered by machine and shape, and nothing lost where that fails."""

from pathlib import Path

import pytest
import torch

from wheels.decoding.models import kernel_times
from wheels.decoding.models.kernel_times import best_times, remembered
from wheels.files import read_object


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel_times, "_known", {})
    return tmp_path / "wheels" / "kernel-times.json"


class Clock:
    """Kernels that take a known time, and how often each ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.runs = 0.0, {"first": 0, "second": 0}
        monkeypatch.setattr(kernel_times.time, "thread_time", lambda: self.now)

    def kernels(self, **seconds: float) -> dict:
        def run(name: str) -> None:
            self.now += seconds[name] * (2 if self.runs[name] == 0 else 1)  # the first is cold
            self.runs[name] += 1

        return {name: lambda name=name: run(name) for name in seconds}


def test_the_best_time_counts_and_is_remembered(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    kernels = clock.kernels(first=0.03, second=0.02)
    found = best_times("shape", kernels)
    assert found == pytest.approx({"first": 0.03, "second": 0.02})
    assert best_times("shape", kernels) == found and clock.runs == {"first": 5, "second": 5}
    monkeypatch.setattr(kernel_times, "_known", {})  # another process
    assert best_times("shape", kernels) == found and clock.runs == {"first": 5, "second": 5}
    best_times("another shape", kernels)
    assert clock.runs == {"first": 10, "second": 10}


def test_another_machine_measures_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    kernels = clock.kernels(first=0.03, second=0.02)
    best_times("shape", kernels)
    for count, (owner, name, value) in enumerate(
        [
            (kernel_times, "processor_name", lambda: "another"),
            (kernel_times.torch, "__version__", "9.9"),
        ],
        2,
    ):
        monkeypatch.setattr(owner, name, value)
        best_times("shape", kernels)
        assert clock.runs["first"] == 5 * count
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")  # continuous integration runs with AVX2
    best_times("shape", kernels)
    assert clock.runs["first"] == 20 and len(read_object(place)) == 4


@pytest.mark.parametrize("content", ["", "[]", '{"MACHINE": 1}', "{not json", '{"MACHINE": {"shape": 3}}'])
def test_a_damaged_file_is_measured_anew(content: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    place.parent.mkdir()
    place.write_text(content.replace("MACHINE", kernel_times._machine()))
    assert best_times("shape", clock.kernels(first=0.03, second=0.02)) == pytest.approx({"first": 0.03, "second": 0.02})
    assert read_object(place)[kernel_times._machine()]["shape"]


def test_slow_kernels_run_twice(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time is cold."""
    clock = Clock(monkeypatch)
    assert best_times("shape", clock.kernels(first=3.0, second=2.0)) == pytest.approx({"first": 3.0, "second": 2.0})
    assert clock.runs == {"first": 2, "second": 2}


def test_what_is_remembered_of_this_machine_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert remembered("passes of ") == {}
    best_times("shape", clock.kernels(first=0.03))
    found = best_times("passes of a model", clock.kernels(first=0.03))
    assert remembered("passes of ") == {"passes of a model": found}
    monkeypatch.setattr(kernel_times, "processor_name", lambda: "another")
    assert remembered("passes of ") == {}
    place.write_text("{not json")
    assert remembered("") == {}


def test_other_kernels_under_the_same_name_are_measured_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    best_times("shape", clock.kernels(first=0.03))
    assert best_times("shape", clock.kernels(first=0.03, second=0.02))["second"] == pytest.approx(0.02)


def test_where_nothing_can_be_written_it_is_measured_once_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(kernel_times, "_known", {})
    clock = Clock(monkeypatch)
    kernels = clock.kernels(first=0.03, second=0.02)
    assert best_times("shape", kernels) == best_times("shape", kernels)
    assert clock.runs["first"] == 5


def test_it_is_measured_with_one_thread(place: Path) -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        best_times("shape", {"first": lambda: seen.append(torch.get_num_threads())})
        assert set(seen) == {1} and torch.get_num_threads() == 2

        def fail() -> None:
            raise RuntimeError

        with pytest.raises(RuntimeError):
            best_times("another", {"first": fail})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
