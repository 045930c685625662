"""Scores of a study's models alone, beside baselines without a model: JSON, CSV and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.score import Alone, ScoresConfig, quality
from wheels.benchmarks.core.stages import seconds_of
from wheels.data.tasks import Row, Task, load_task
from wheels.distillation.run_folder import run_facts
from wheels.files import read_object, write_json, write_text
from wheels.output.tables import Table, columns, digits

SPLITS = ("validation", "test")


def baselines(task: Task, config: ScoresConfig) -> list[dict[str, Any]]:
    """Return the baselines for ROUGE: the first words of the source (lead), and the whole source."""
    metrics = config.metrics or task.metrics
    if not metrics[0].startswith("rouge"):
        return []
    makers = {f"lead-{config.lead}": lambda text: " ".join(text.split()[: config.lead]), "source": lambda text: text}
    return [
        {"name": name, "objective": "-"}
        | {
            split: quality([make(row.source) for row in rows], [row.scored_against for row in rows], metrics)
            for split, rows in scored_rows(task, config).items()
        }
        for name, make in makers.items()
    ]


def scored_rows(task: Task, config: ScoresConfig) -> dict[str, list[Row]]:
    """Return the rows of the splits that are scored."""
    return {split: task.rows(split)[: config.limit] for split in SPLITS}


def score_model(config: ScoresConfig, data: str, model: Path, place: Path) -> None:
    """Write the scores of a model's own outputs."""
    task = load_task(data)
    alone = Alone.load(model, task.prompt, config.device)
    facts: dict[str, Any] = {"parameters": alone.facts["parameters"]}
    for split, rows in scored_rows(task, config).items():
        texts = alone.write(rows, config.max_new_tokens, config.batch_size)
        facts[split] = quality(texts, [row.scored_against for row in rows], config.metrics or task.metrics)
    write_json(place, facts)


def write_table(config: ScoresConfig, data: str, models: Mapping[str, tuple[str, Path]], folder: Path) -> None:
    """Write `students.json` and `students.csv`, and print them as a table.

    `models` has objective and folder of each model, the teacher first; `folder` is that of the stages.
    """
    task, done = load_task(data), seconds_of(folder)
    lines = baselines(task, config)
    for name, (objective, place) in models.items():
        stage = name if name == "teacher" else f"student-{name}"
        facts: dict[str, Any] = {"steps": "", "teacher_tokens": 0, "seconds": ""}
        if stage in done:
            run = run_facts(place)
            facts = {"steps": run["steps"], "teacher_tokens": run.get("teacher_tokens", 0), "seconds": done[stage]}
        lines.append({"name": name, "objective": objective} | facts | read_object(folder / "scores" / f"{name}.json"))
    counts = {split: len(rows) for split, rows in scored_rows(task, config).items()}
    write_json(folder / "students.json", {"data_digest": task.digest, "rows": counts, "models": lines})
    write_text(folder / "students.csv", as_csv(lines))
    print(as_text(lines))


FACTS = ("name", "objective", "parameters", "teacher_tokens", "steps", "seconds")
"""Columns beside the scores; empty for a baseline."""


def as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a line a model."""
    shown = columns(*FACTS, show=str)
    for split in SPLITS:
        shown += columns(*lines[0][split], show=digits(2), under=split, heading=f"{split}_{{}}".format)
    return Table.of(shown, [{**dict.fromkeys(FACTS, ""), **line} for line in lines]).csv()


def as_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for a terminal: a line a model, one table a split."""

    def spaced(name: str) -> str:
        return name.replace("_", " ")

    parts, rows = [], [{**dict.fromkeys(FACTS, ""), **line} for line in lines]
    for split in SPLITS:
        shown = columns(*FACTS, show=lambda value: str(value) or "-", heading=spaced)
        shown += columns(*lines[0][split], show=digits(2), under=split, heading=spaced)
        parts.append(f"{split}\n{Table.of(shown, rows).text()}")
    return "\n\n".join(parts)
