"""Stages of `wheels bench rationales`: an untrained teacher, rows with rationales, a student's score."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from wheels.benchmarks.core.score import Alone
from wheels.benchmarks.rationales.config import GridConfig
from wheels.data.formats import read_records
from wheels.data.tasks import load_task
from wheels.distillation.run_folder import noted_prompt
from wheels.files import write_json, write_jsonl
from wheels.metrics import sentence_scores
from wheels.models.loading import load_model, load_tokenizer, save_model
from wheels.rationales.words import rationale

UNTRAINED_SEED = 1_000_003
"""Of the weights of the untrained teacher: no teacher starts from it."""


def untrained(teacher: Path, place: Path) -> None:
    """Write a model of the teacher's configuration, tokenizer and prompt with weights as they are before training."""
    model = load_model(teacher, role="teacher")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        fresh = type(model)(model.config)
    save_model(fresh, load_tokenizer(teacher), place)
    write_json(place / "finished.json", {"prompt": noted_prompt(teacher).noted, "steps": 0})


def write_rows(data: str, attributed: Path, place: Path, *, column: str, k: int) -> None:
    """Write a folder of rows to train on: the training rows with the k heaviest words, and the validation rows."""
    lines = []
    for _, record in read_records(attributed):
        words, scores = [word for word, _ in record[f"{column}_words"]], [s for _, s in record[f"{column}_words"]]
        lines.append({"source": record["source"], "target": record["target"], column: rationale(words, scores, k)})
    write_jsonl(place / "train.jsonl", lines)
    write_jsonl(place / "validation.jsonl", map(asdict, load_task(data).validation))


def score_cell(grid: GridConfig, data: str, model: Path, place: Path) -> None:
    """Write which test rows a model answers rightly, greedily and by the prompt it was trained with."""
    rows, alone = load_task(data).test[: grid.limit], Alone.load(model)
    references = [row.target for row in rows]
    longest = 1 + max(map(len, alone.pair.encode_targets(references)))
    scores = sentence_scores(grid.metric, alone.write(rows, longest, grid.batch_size), references)
    finished = alone.facts["finished"]
    facts = {"parameters": alone.facts["parameters"], "prompt": finished["prompt"], "steps": finished["steps"]}
    write_json(place, facts | {"right": [int(score > 0.0) for score in scores]})
    print(f"{sum(scores) / len(scores):.1f}")
