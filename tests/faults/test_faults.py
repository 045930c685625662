"""The script that plays faults, on three commands; `python -m tests.faults.run` plays all of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="plays each command in a fork")
def test_no_fault_changes_a_result():
    """A second process, a removed lock, kills and SIGTERM."""
    wanted = ["--commands", "pretrain", "calibrate", "push", "--faults", "two", "kill", "term", "--each", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.run", *wanted], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "3/3" in done.stdout and "2/2" in done.stdout
