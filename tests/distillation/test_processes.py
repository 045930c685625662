"""`wheels pretrain` under `torchrun` and FSDP2: two processes do what one does with the same batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.decoding.tiny import make_pair
from wheels.cli.main import main
from wheels.files import read_json, write_json

ROOT = Path(__file__).parents[2]
CLOSE = 1e-6
"""Weights after six steps: sums over halves of a batch in another order, in float32."""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["kl", "pcl"])
def test_two_processes_train_as_one_does_with_the_same_batch(objective, data, folders, tmp_path):
    """Without dropout, whose masks each process draws for itself."""
    student, teacher = folders
    for folder in folders:
        place = Path(folder) / "config.json"
        write_json(place, read_json(place) | {"dropout_rate": 0.0})
    shared = ["pretrain", "--data", data, "--student", student, "--teacher", teacher, "--objective", objective]
    steps = "--max-steps 6 --eval-every 3 --eval-limit 4 --log-every 1 --max-target-length 8 --threads 1"
    shared += steps.split()
    assert main([*shared, "--output", str(tmp_path / "one"), "--batch-size", "8"]) == 0
    two = [*TORCHRUN, "wheels", *shared, "--output", str(tmp_path / "two"), "--batch-size", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(two, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[:20000]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < CLOSE
    facts = [read_json(tmp_path / name / "finished.json") for name in ("one", "two")]
    assert facts[0].pop("value") == pytest.approx(facts[1].pop("value")) and facts[0] == facts[1]
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]), "one process writes"
    for mine, theirs in zip(*(map(json.loads, each) for each in lines), strict=True):
        assert mine.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-4)
    moved = load_file(Path(student) / "model.safetensors")
    assert max(float((one[name] - moved[name]).abs().max()) for name in one if name in moved) > 1000 * CLOSE
    assert not torch.equal(*(load_file(Path(folder) / "model.safetensors")["shared.weight"] for folder in folders))


LAUNCH = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "examples" / "fsdp2.yaml")]
SHARDED = [sys.executable, *LAUNCH, "--main_process_port", "0", str(ROOT / "tests" / "distillation" / "sharded.py")]


@pytest.fixture
def causal(tmp_path):
    """The command that distils into a small causal student, without output and batch; where it is run; how.

    Its rows are of several letters: where attention has nothing to tell apart, Adam makes steps of what is rounded.
    """
    for split, count in {"train": 24, "validation": 12}.items():
        sources = [" ".join("abcdefghijk"[(n * 3 + k) % 11] for k in range(1 + n % 5)) for n in range(count)]
        rows = [{"source": source, "target": f"a {source[0]}"} for source in sources]
        (tmp_path / "rows").mkdir(exist_ok=True)
        (tmp_path / "rows" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data, pair = str(tmp_path / "rows"), make_pair("llama")
    models = ["--student", str(pair.save_student(tmp_path / "s")), "--teacher", str(pair.save_teacher(tmp_path / "t"))]
    steps = "--max-steps 6 --eval-every 3 --eval-limit 4 --log-every 1 --max-target-length 8 --threads 1"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    settings = {"env": environment, "cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return ["pretrain", "--data", data, *models, *steps.split()], settings


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["kl", "pcl"])
def test_models_in_shards_train_as_whole_ones_do(objective, causal, tmp_path):
    """FSDP2 by accelerate's file of settings; killed after its first checkpoint, it goes on."""
    command, settings = causal
    command += ["--objective", objective, "--output"]
    assert main([*command, str(tmp_path / "one"), "--batch-size", "8"]) == 0
    two = [*SHARDED, *command, "two", "--batch-size", "4"]
    with subprocess.Popen(two, **settings, start_new_session=True) as first:
        while first.poll() is None and not (tmp_path / "two" / "checkpoints" / "checkpoint-3" / ".seal").exists():
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
    done = subprocess.run(two, **settings, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == other.keys()
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < CLOSE
    assert len({len((tmp_path / name / "metrics.jsonl").read_text().splitlines()) for name in ("one", "two")}) == 1


@pytest.mark.slow
def test_models_in_shards_do_not_sample(causal):
    command, settings = causal
    command = [*SHARDED, *command, "--objective", "kl", "--lmbda", "0.5", "--output", "two", "--batch-size", "4"]
    done = subprocess.run(command, **settings, text=True, timeout=300, check=False)
    assert done.returncode and "lmbda 0.5 has each process write outputs of its own length" in done.stdout
