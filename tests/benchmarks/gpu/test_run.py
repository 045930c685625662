"""The script for a GPU runs as it stands, on a CPU and with tiny shapes."""

import json
import os
import subprocess
import sys

import pytest

from tests.docs.blocks import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu" / "run.sh"


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable}
    made = subprocess.run(
        [str(SCRIPT), str(tmp_path / "out"), "cpu", "tiny"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    told = made.stdout.splitlines()
    assert made.returncode == 0, made.stdout
    assert [line.split()[:2] for line in told] == [
        ["ok", name]
        for name in (
            "families-float32", "families-bfloat16", "teacher", "student", "train", "generate", "speed-1",
        )
    ]  # fmt: skip
    found = json.loads((tmp_path / "out" / "families-float32.json").read_text())
    assert [each["exact"] for each in found["families"]] == [True, True]


def test_its_steps_end_within_twelve_minutes():
    limits = [line.split()[2] for line in SCRIPT.read_text().splitlines() if line.lstrip().startswith("step ")]
    assert sum(map(int, limits)) + 2 * 80 <= 12 * 60, "batch sizes 1, 8 and 64, of which one is counted"
