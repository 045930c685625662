"""Greedy outputs of the models of a distillation benchmark, kept with facts about the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.score import Alone
from wheels.benchmarks.distillation.plan import DistillationPlan
from wheels.data.tasks import load_task
from wheels.files import read_object, write_json


def texts_of(plan: DistillationPlan, model: Path, split: str) -> tuple[dict[str, Any], list[str]]:
    """Return the facts of a model, and what it writes for a split."""
    config, task = plan.scores, load_task(plan.data)
    alone = Alone.load(model, task.prompt, config.device)
    return alone.facts, alone.write(task.rows(split)[: config.limit], config.max_new_tokens, config.batch_size)


def write_texts(plan: DistillationPlan, model: Path, place: Path) -> None:
    """Keep what a model writes for the test rows."""
    facts, texts = texts_of(plan, model, "test")
    write_json(place, {**facts, "texts": texts})


def read_texts(place: Path) -> tuple[Mapping[str, Any], list[str]]:
    """Return the facts and the texts that `write_texts` kept.

    Raises:
        WheelsError: for a file that cannot be read.
    """
    facts = read_object(place, "texts")
    return facts, facts.pop("texts")
