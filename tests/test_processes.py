"""What is said of the processes of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wheels.cli.main import main
from wheels.processes import OF_LAUNCH, SHARDED_BY, SIZES, say_what_was_not_done


def test_one_process_where_several_were_asked_for_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (*OF_LAUNCH, *SIZES, *SHARDED_BY):
        monkeypatch.delenv(name, raising=False)
    say_what_was_not_done("cpu")
    monkeypatch.setenv("MASTER_PORT", "29500")
    say_what_was_not_done("cpu")
    assert not caplog.text
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    say_what_was_not_done("cpu")
    assert caplog.messages == [
        "accelerate launch was asked for several processes and has started one; use torchrun instead"
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    say_what_was_not_done("cpu")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", SHARDED_BY)
def test_shards_that_a_cpu_does_not_make_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    for other in (*OF_LAUNCH, *SIZES, *SHARDED_BY):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "true")
    say_what_was_not_done("cuda")
    assert not caplog.text
    say_what_was_not_done("cpu")
    (message,) = caplog.messages
    assert (
        message == f"accelerate uses {SHARDED_BY[name]} on accelerators only: on a cpu each process holds whole models"
    )


ROOT = Path(__file__).parents[1]
FSDP2 = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "examples" / "fsdp2.yaml")]


def train(folder: Path, device: str) -> list[str]:
    """Return a command whose inputs are not there."""
    places = [word for name in ("student", "teacher", "data", "output") for word in (f"--{name}", str(folder / name))]
    return ["train", "--device", device, *places]


@pytest.mark.parametrize("name", SHARDED_BY)
def test_train_refuses_shards_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, "true")
    assert main(train(tmp_path, "cuda")) == 2
    assert f"asked to cut them by {SHARDED_BY[name]}: start it by torchrun" in capsys.readouterr().err
    main(train(tmp_path, "cpu"))
    assert "asked to cut" not in capsys.readouterr().err


@pytest.mark.slow
def test_train_is_refused_by_accelerates_own_file(tmp_path: Path) -> None:
    """Each of the two processes says so."""
    launch = [*FSDP2, "--main_process_port", "0", "-m", "wheels", *train(tmp_path, "cuda")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(launch, capture_output=True, text=True, env=environment, timeout=300, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and not (tmp_path / "output").exists()
    assert said and all("accelerate was asked to cut them by FSDP: start it by torchrun" in line for line in said)
