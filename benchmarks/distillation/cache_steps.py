"""Seconds of a training step, and memory of a training, with a live teacher and with its cache."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from wheels.config.parsing import as_command
from wheels.data.tasks import Task
from wheels.distillation.collate import Batch, count_targets
from wheels.distillation.config import PretrainConfig
from wheels.distillation.run import make_trainer
from wheels.distillation.trainer import CausalKDTrainer, KDTrainer
from wheels.distillation.training_data import load_training_data, training_examples
from wheels.errors import WheelsError

# Linux tells a process its own highest resident memory; what a parent learns of a child holds the parent's own too.
CHILD = """
import re, sys
from pathlib import Path
from wheels.cli.main import main
code = main(sys.argv[1:])
status = Path("/proc/self/status")
found = re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text()) if status.exists() else None
print(found.group(1) if found else "")
sys.exit(code)
"""
MEMORY_STEPS = 20


class Stepper:
    """One way to train, whose steps are those of transformers' trainer: passes, loss, gradient, clipping, AdamW."""

    def __init__(self, config: PretrainConfig, task: Task, folder: Path) -> None:
        """Prepare the models; `folder` is for what the trainer wants to keep."""
        data = load_training_data(config, task)
        rows = task.train[: config.limit]
        examples = training_examples(config, data, rows, folder)
        self.trainer: KDTrainer | CausalKDTrainer = make_trainer(config, data, examples, folder, (), task.metrics)
        self.trainer.create_optimizer()
        self._batches = itertools.cycle(list(itertools.islice(self.trainer.get_train_dataloader(), 64)))

    def step(self) -> None:
        """Take one optimizer step."""
        batch: Batch = next(self._batches)
        items = torch.tensor(count_targets([batch]))
        model, optimizer = self.trainer.model, self.trainer.optimizer
        assert model is not None and optimizer is not None, "they were made with the trainer"
        self.trainer.training_step(model, dict(batch), items)
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.trainer.args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    def seconds(self, steps: int) -> tuple[float, float]:
        """Return the mean wall-clock and processor seconds of some steps."""
        wall, own = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.step()
        return (time.perf_counter() - wall) / steps, (time.process_time() - own) / steps


def time_steps(configs: Mapping[str, PretrainConfig], task: Task, folder: Path, rounds: int, steps: int) -> Any:
    """Return the seconds of a step of each way, round by round, all of them in turn in each round.

    Returns:
        for each name `wall_ms` and `cpu_ms`, a value a round; the first steps of each, which warm up, are not counted.
    """
    steppers = {name: Stepper(config, task, folder / name) for name, config in configs.items()}
    found: dict[str, dict[str, list[float]]] = {name: {"wall_ms": [], "cpu_ms": []} for name in steppers}
    for stepper in steppers.values():
        stepper.seconds(2)
    for _ in tqdm(range(rounds), desc="timing steps", unit="round", leave=False):
        for name, stepper in steppers.items():
            wall, own = stepper.seconds(steps)
            found[name]["wall_ms"].append(1000 * wall)
            found[name]["cpu_ms"].append(1000 * own)
    return found


def peak_memory_mb(config: PretrainConfig, folder: Path) -> float | None:
    """Return the highest resident memory of a short training in a process of its own; None where nothing tells it."""
    short = replace(
        config, output=str(folder), max_steps=MEMORY_STEPS, eval_limit=0, eval_every=MEMORY_STEPS, resume="never"
    )
    return own_memory_mb(shlex.split(as_command("pretrain", short)))


def own_memory_mb(arguments: Sequence[str]) -> float | None:
    """Return the highest resident memory of a command of `wheels` in a process of its own.

    Raises:
        WheelsError: where the command fails.
    """
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, env=_environment())
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise WheelsError(f"wheels {arguments[0]} failed where its memory was to be measured: {said[-1]}")
    kilobytes = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    return int(kilobytes) / 1024 if kilobytes else None


def _environment() -> dict[str, str]:
    """Return an environment in which a process of Python finds the modules that this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
