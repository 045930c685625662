"""Models alone, scored on validation and test, beside what no model is needed for; the table of a study."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wheels.benchmarks.study.config import ScoresConfig
from wheels.data.tasks import Row, Task, load_task
from wheels.distillation.run_folder import run_facts
from wheels.files import read_object, write_json, write_text

SPLITS = ("validation", "test")
PLAIN = ("rouge1", "rouge2", "rougeL")
"""ROUGE that is also given on whitespace tokens."""


class Words:
    """What rouge-score calls a tokenizer: the words between white space, as they stand."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words."""
        return text.split()


def plain_rouge(metric: str, texts: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean F1 of ROUGE-1, 2 or L, 0 to 100, on whitespace tokens, without stemming or change of case.

    Lin 2004 (https://aclanthology.org/W04-1013), by rouge-score. Published figures on texts that are tokenised already
    are often of this kind; `wheels.metrics` stems, takes letters and digits alone, and ignores case.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([metric], use_stemmer=False, tokenizer=Words())
    values = [scorer.score(reference, text)[metric].fmeasure for text, reference in zip(texts, references, strict=True)]
    return 100.0 * sum(values) / len(values)


def quality(texts: Sequence[str], references: Sequence[str], metrics: Sequence[str]) -> dict[str, float]:
    """Return each metric, and ROUGE of whitespace tokens as `rougeL_plain`, rounded to 2 digits."""
    from wheels.metrics import score

    found = {metric: score(metric, texts, references).value for metric in metrics}
    found |= {f"{name}_plain": plain_rouge(name, texts, references) for name in metrics if name in PLAIN}
    return {name: round(value, 2) for name, value in found.items()}


def baselines(task: Task, config: ScoresConfig) -> list[dict[str, Any]]:
    """Return the lines of the first words of the source (lead) and of the source itself; only for ROUGE."""
    metrics = config.metrics or task.metrics
    if not metrics[0].startswith("rouge"):
        return []
    makers = {f"lead-{config.lead}": lambda text: " ".join(text.split()[: config.lead]), "source": lambda text: text}
    return [
        {"name": name, "objective": "-"}
        | {
            split: quality([make(row.source) for row in rows], [row.target for row in rows], metrics)
            for split, rows in scored_rows(task, config).items()
        }
        for name, make in makers.items()
    ]


def scored_rows(task: Task, config: ScoresConfig) -> dict[str, list[Row]]:
    """Return the rows of the splits that are scored."""
    return {split: task.rows(split)[: config.limit] for split in SPLITS}


def score_model(config: ScoresConfig, data: str, model: Path, teacher: Path, place: Path) -> None:
    """Write what a model's own greedy outputs are worth: the engine at budget 0, as on every curve."""
    from wheels.decoding.engine import decode
    from wheels.decoding.methods.method import student_only
    from wheels.decoding.params import DecodeParams
    from wheels.models.pair import Pair

    task = load_task(data)
    pair = Pair.load(model, teacher, prompt=run_facts(model).get("prompt", task.prompt), device=config.device)
    facts: dict[str, Any] = {"parameters": sum(weights.numel() for weights in pair.student.parameters())}
    for split, rows in scored_rows(task, config).items():
        params = DecodeParams(max_new_tokens=config.max_new_tokens)
        traces = decode(pair, [row.source for row in rows], student_only(), params, batch_size=config.batch_size)
        texts = [trace.text for trace in traces]
        facts[split] = quality(texts, [row.target for row in rows], config.metrics or task.metrics)
    write_json(place, facts)


def write_table(
    config: ScoresConfig, data: str, models: Mapping[str, tuple[str, Path]], folder: Path, seconds: Path
) -> None:
    """Write `students.json` and `students.csv`, and print them as a table.

    Args:
        config: how the models were scored.
        data: the task.
        models: objective and folder of each model, the teacher first.
        folder: where the scores lie and the files go.
        seconds: the ledger of the stages.
    """
    task, done = load_task(data), read_object(seconds, "done")["done"]
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
    table = as_rows(lines)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(table)
    write_text(folder / "students.csv", buffer.getvalue())
    print(as_text(table))


def as_rows(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the table: a line of names, then one a model; what a baseline has not is empty."""
    plain = ["name", "objective", "parameters", "teacher_tokens", "steps", "seconds"]
    scores = [(split, metric) for split in SPLITS for metric in lines[0][split]]
    head = [*plain, *(f"{split}_{metric}" for split, metric in scores)]
    body = [
        [*(str(line.get(name, "")) for name in plain), *(f"{line[split][metric]:.2f}" for split, metric in scores)]
        for line in lines
    ]
    return [head, *body]


def as_text(table: Sequence[Sequence[str]]) -> str:
    """Return the table for a terminal: a line a model, one table a split."""
    from wheels.tables import align

    head, *body = table
    parts = []
    for split in SPLITS:
        chosen = [column for column, name in enumerate(head) if column < 6 or name.startswith(f"{split}_")]
        names = [head[column].removeprefix(f"{split}_").replace("_", " ") for column in chosen]
        parts.append(f"{split}\n{align([names, *([row[column] or '-' for column in chosen] for row in body)])}")
    return "\n\n".join(parts)
