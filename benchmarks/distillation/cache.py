"""The second part of `wheels bench distillation`: savings and costs of cached teacher probabilities.

Students trained to the end from the cache and with the live teacher, same seeds and rows; bytes, seconds and errors of
caches of several sizes; interleaved rounds of training steps; memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.recipe import with_digests
from wheels.benchmarks.core.stages import Stage
from wheels.benchmarks.distillation.config import CacheConfig
from wheels.benchmarks.distillation.plan import DistillationPlan, Kind
from wheels.data.tasks import Task
from wheels.distillation.config import PretrainConfig
from wheels.files import read_object, write_json, write_text

WAYS = ("live", "cache")


def student_of(plan: DistillationPlan, way: str, seed: int, output: Path) -> PretrainConfig:
    """Return the training of a student with soft labels: `live`, `cache`, or `hard` for comparison."""
    cache = plan.cache
    size = cache.size or plan.sizes[0]
    if way == "hard":
        return plan.student_config(Kind(size, "hard", 0.0, None), seed, output)
    ours: dict[str, Any] = {"cached_logits": 0, "cache": None, "cache_temperatures": None}
    if way == "cache":
        ours = {"cached_logits": cache.k, "cache": str(plan.output / "caches")}
        ours |= {"cache_temperatures": list(cache.temperatures)}
    return plan.student_config(Kind(size, "soft", 1.0, cache.temperature), seed, output, **ours)


def cache_stages(plan: DistillationPlan, task: Task) -> list[Stage]:
    """Return the stages of the measurement, the table last."""
    folder, config = plan.output / "cached", plan.cache
    sections = plan.recipe.sections
    settings = {"student": sections["student"], "sizes": sections["sizes"], "cache": sections["cache"]}
    stages = []
    for seed in range(config.seeds):
        for way in WAYS:
            name = f"{way}-s{seed}"
            place = folder / "trained" / f"{name}.json"
            student = student_of(plan, way, seed, folder / "students" / name)
            train = partial(train_and_score, plan, student, place)
            title = f"training with soft labels, {way}, seed {seed}"
            stages.append(Stage(name, title, (Path(student.output), place), with_digests(settings, student), train))
    for name, title, work in (
        ("sizes", "writing caches of several sizes, and their errors", measure_sizes),
        ("steps", "timing training steps", measure_steps),
        ("memory", "measuring memory", measure_memory),
    ):
        place = folder / f"{name}.json"
        stages.append(Stage(name, title, (place,), settings, partial(work, plan, task, place)))
    write = partial(write_cache_summary, plan, task, folder)
    table = (plan.output / "cache.json", plan.output / "cache.csv")
    stages.append(Stage("cache", "the cache in numbers", table, settings, write, True))
    return stages


def train_and_score(plan: DistillationPlan, student: PretrainConfig, place: Path) -> None:
    """Train a student; keep its outputs for the validation rows, and the seconds of an uninterrupted training."""
    from wheels.benchmarks.distillation.texts import texts_of
    from wheels.distillation.run import run as pretrain

    fresh = not Path(student.output).exists()
    wall, own = time.perf_counter(), time.process_time()
    pretrain(student)
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - own} if fresh else None
    facts, texts = texts_of(plan, Path(student.output), "validation")
    write_json(place, {**facts, "seconds": seconds, "texts": texts})


def measure_sizes(plan: DistillationPlan, task: Task, place: Path) -> None:
    """Write bytes, seconds and errors of caches of every size, the whole vocabulary's last."""
    from wheels.benchmarks.distillation.cache_measures import errors, weigh
    from wheels.distillation.collate import Collator
    from wheels.distillation.teacher_cache import CacheSettings
    from wheels.distillation.training_data import load_training_data, training_examples
    from wheels.models.loading import model_digest
    from wheels.models.pair import Pair

    config, folder = plan.cache, place.parent
    student = Path(student_of(plan, "live", 0, folder / "students" / "live-s0").output)
    prompt = read_object(student / "finished.json", "prompt")["prompt"]
    pair = Pair.load(student, plan.teacher, prompt=prompt)
    pair.student.requires_grad_(True)
    settings = student_of(plan, "live", 0, student)
    examples = training_examples(settings, load_training_data(settings, task), task.train[: config.rows], folder)
    made = CacheSettings(
        teacher=model_digest(plan.teacher),
        dtype="float32",
        k=1,
        temperatures=config.temperatures,
        vocab_size=pair.vocab_size,
        start_ids=pair.start_ids,
    )
    sizes = [*(k for k in config.sizes if k < pair.vocab_size), pair.vocab_size]
    # Once for nothing, so that no cache pays for the teacher's first pass.
    collator = Collator.of(pair)
    batch = {name: tensor for name, tensor in collator(examples[:8]).items() if name != "labels"}
    pair.teacher(**batch)
    weights = [asdict(weigh(pair, examples, replace(made, k=k), folder / "caches")) for k in sizes]
    found = errors(pair, examples, made, sizes, folder / "caches", settings.objective)
    write_json(place, {"rows": len(examples), "vocab_size": pair.vocab_size, "weights": weights, "errors": found})


def measure_steps(plan: DistillationPlan, task: Task, place: Path) -> None:
    """Time training steps: live, from the cache, and with hard labels."""
    from wheels.benchmarks.distillation.cache_measures import time_steps

    config, folder = plan.cache, place.parent / "timed"
    # A few rows do, and their caches are soon written.
    ways = {way: replace(student_of(plan, way, 0, folder / way), limit=config.rows) for way in (*WAYS, "hard")}
    every = {**ways, "cache-all": replace(ways["cache"], cached_logits=_vocabulary(plan))}
    write_json(place, time_steps(every, task, folder, config.rounds, config.steps))


def measure_memory(plan: DistillationPlan, task: Task, place: Path) -> None:
    """Measure the memory of a training: live, from a cache that is whole, and with hard labels."""
    from wheels.benchmarks.distillation.cache_measures import peak_memory_mb

    ways = {way: student_of(plan, way, 0, place.parent / "memory" / way) for way in (*WAYS, "hard")}
    write_json(place, {way: peak_memory_mb(student, Path(student.output)) for way, student in ways.items()})


def _vocabulary(plan: DistillationPlan) -> int:
    """Return V, from the result of the stage `sizes`."""
    return int(read_object(plan.output / "cached" / "sizes.json", "vocab_size")["vocab_size"])


def write_cache_summary(plan: DistillationPlan, task: Task, folder: Path) -> None:
    """Write `cache.json` and `cache.csv`, and print the tables."""
    from wheels.benchmarks.distillation.cache_summary import as_csv, as_text, summarise

    config: CacheConfig = plan.cache
    trained: Mapping[str, Any] = {
        f"{way}-s{seed}": read_object(folder / "trained" / f"{way}-s{seed}.json")
        for seed in range(config.seeds)
        for way in WAYS
    }
    parts = {name: read_object(folder / f"{name}.json") for name in ("sizes", "steps", "memory")}
    summary = summarise(
        config,
        task.name,
        [row.scored_against for row in task.validation],
        plan.scores.metrics or task.metrics,
        trained,
        parts,
    )
    write_json(plan.output / "cache.json", summary)
    write_text(plan.output / "cache.csv", as_csv(summary))
    print(as_text(summary))
