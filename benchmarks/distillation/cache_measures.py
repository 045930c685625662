"""What a cached teacher costs and saves: bytes, errors of loss and gradient, seconds of a step, memory."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from wheels.config.parsing import as_command
from wheels.data.tasks import Task
from wheels.distillation.cached_teacher import numbered
from wheels.distillation.collate import Batch, Collator, Example, count_targets, target_states
from wheels.distillation.config import PretrainConfig
from wheels.distillation.losses import divergence
from wheels.distillation.run import make_trainer
from wheels.distillation.scorers import LocalScorer
from wheels.distillation.teacher_cache import CacheSettings, TeacherCache
from wheels.distillation.topk_losses import topk_divergence
from wheels.distillation.trainer import CausalKDTrainer, KDTrainer
from wheels.distillation.training_data import load_training_data, training_examples
from wheels.errors import WheelsError
from wheels.models.chosen_states import read_at
from wheels.models.pair import Pair

ERROR_ROWS = 256
"""Rows that errors are taken over."""
BATCH = 16
"""Rows of one gradient."""


@dataclass(frozen=True)
class CacheSize:
    """What one cache takes."""

    k: int
    bytes_per_token: float
    bytes: int
    """On the disk, for all rows that were scored."""
    tokens: int
    seconds: float
    """To write it, the teacher's passes included."""


def weigh(pair: Pair, examples: Sequence[Example], settings: CacheSettings, folder: Path) -> CacheSize:
    """Write a cache anew, and return what it takes."""
    cache = TeacherCache(folder, settings, examples)
    shutil.rmtree(cache.folder, ignore_errors=True)
    start = time.perf_counter()
    cache.write(LocalScorer(pair.teacher, settings, Collator.of(pair)))
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in cache.files)
    return CacheSize(settings.k, size / cache.tokens, size, cache.tokens, seconds)


def errors(
    pair: Pair, examples: Sequence[Example], settings: CacheSettings, sizes: Sequence[int], folder: Path, objective: str
) -> list[dict[str, Any]]:
    """Return, for each k and T, how far the loss and the student's gradient are from those of the full logits.

    The caches must be written. A loss is the divergence of a token in nats, without T^2; `share` is the mean loss over
    the full one's, `worst` the largest difference of a token, `gradient` the mean over batches of
    `|g_k - g| / |g|`, g over all weights of the student; `rest` the mean mass of the rest.
    """
    caches = {k: TeacherCache(folder, replace(settings, k=k), examples) for k in sizes}
    sums: dict[tuple[int, float], dict[str, list[float]]] = {}
    rows = numbered(list(examples[:ERROR_ROWS]))
    collator = Collator.of(pair)
    pair.student.eval()
    for start in tqdm(range(0, len(rows), BATCH), desc="error of the cache", unit="batch", leave=False):
        batch = collator(rows[start : start + BATCH])
        for (k, temperature), found in _batch_errors(pair, batch, caches, settings, objective).items():
            kept = sums.setdefault((k, temperature), {name: [] for name in found})
            for name, values in found.items():
                kept[name] += values
    return [_summed(k, temperature, kept) for (k, temperature), kept in sorted(sums.items())]


def _batch_errors(
    pair: Pair, batch: Batch, caches: dict[int, TeacherCache], settings: CacheSettings, objective: str
) -> dict[tuple[int, float], dict[str, list[float]]]:
    """Return for each k and T the losses of one batch's tokens, and the error of its gradient."""
    reads = {name: tensor for name, tensor in batch.items() if name not in ("labels", "rows")}
    chosen_BT, _ = target_states(batch["labels"], is_seq2seq=pair.is_seq2seq)
    student_logits_NV = read_at(pair.student, reads, chosen_BT).logits_NV[:, : settings.vocab_size]
    with torch.no_grad():
        teacher_logits_NV = read_at(pair.teacher, reads, chosen_BT).logits_NV[:, : settings.vocab_size]
    weights = [weight for weight in pair.student.parameters() if weight.requires_grad]

    def gradient(loss_N: torch.Tensor) -> torch.Tensor:
        parts = torch.autograd.grad(loss_N.sum(), weights, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    found = {}
    for temperature in settings.temperatures:
        full_N = divergence(objective, student_logits_NV, teacher_logits_NV, temperature)
        true = gradient(full_N)
        for k, cache in caches.items():
            law = cache.distribution(batch["rows"], temperature)
            merged_N = topk_divergence(student_logits_NV, law, objective, temperature)
            rest_N = torch.zeros_like(merged_N) if law.ids_NK is None else law.outcomes_NJ.softmax(-1)[:, -1]
            found[k, temperature] = {
                "full": full_N.tolist(),
                "merged": merged_N.tolist(),
                "gradient": [float((gradient(merged_N) - true).norm() / true.norm())],
                "rest": rest_N.tolist(),
            }
    return found


def _summed(k: int, temperature: float, kept: dict[str, list[float]]) -> dict[str, Any]:
    """Return the line of one k and T."""
    full, merged = torch.tensor(kept["full"]), torch.tensor(kept["merged"])
    return {
        "k": k,
        "temperature": temperature,
        "full": float(full.mean()),
        "merged": float(merged.mean()),
        "share": float(merged.mean() / full.mean()),
        "worst": float((full - merged).abs().max()),
        "above": float((merged - full).max()),
        "gradient": sum(kept["gradient"]) / len(kept["gradient"]),
        "rest": sum(kept["rest"]) / len(kept["rest"]),
    }


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
