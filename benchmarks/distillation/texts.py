"""What the models of a distillation benchmark write: greedy, kept beside what is known of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wheels.benchmarks.distillation.plan import DistillationPlan
from wheels.data.tasks import load_task
from wheels.distillation.run_folder import run_facts
from wheels.files import read_object, write_json


def texts_of(plan: DistillationPlan, model: Path, split: str) -> tuple[dict[str, Any], list[str]]:
    """Return the facts of a model, and what it writes for a split: the engine at budget 0, as on every curve."""
    from wheels.decoding.engine import decode
    from wheels.decoding.methods.method import student_only
    from wheels.decoding.params import DecodeParams
    from wheels.models.pair import Pair

    config, task = plan.scores, load_task(plan.data)
    finished = run_facts(model)
    pair = Pair.load(model, model, prompt=finished.get("prompt", task.prompt), device=config.device)
    rows = task.rows(split)[: config.limit]
    params = DecodeParams(max_new_tokens=config.max_new_tokens)
    traces = decode(pair, [row.source for row in rows], student_only(), params, batch_size=config.batch_size)
    facts = {"parameters": sum(weights.numel() for weights in pair.student.parameters()), "finished": finished}
    return facts, [trace.text for trace in traces]


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
