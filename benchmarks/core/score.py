"""Models alone, scored on validation and test, beside what no model is needed for; the table of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wheels.benchmarks.study.config import ScoresConfig
from wheels.data.tasks import Row, Task, load_task
from wheels.distillation.run_folder import run_facts
from wheels.files import read_object, write_json, write_text
from wheels.tables import Table, columns, digits

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
    write_text(folder / "students.csv", as_csv(lines))
    print(as_text(lines))


FACTS = ("name", "objective", "parameters", "teacher_tokens", "steps", "seconds")
"""What is said of a model beside its scores; what a baseline has not is empty."""


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
