"""`wheels bench ceiling`: search for the best sets of calls with the metric known, and hold every rule against them.

The ceiling is a lower bound of what perfect foresight reaches. It knows the references: much of its lead is the luck of
words that no policy can foresee. `imitation` is chosen from the same texts by their likeness to the teacher's own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wheels.benchmarks.ceiling.call_sets import Calls, CallSetRule, Text, Writer
from wheels.benchmarks.ceiling.ceilings import IMITATION, Found, call_sets, ceiling_of
from wheels.benchmarks.ceiling.config import CeilingConfig
from wheels.benchmarks.ceiling.plot import draw
from wheels.benchmarks.ceiling.search import RowSearch, search
from wheels.benchmarks.ceiling.summary import summarise
from wheels.benchmarks.ceiling.table import CLAIM, as_csv, as_text
from wheels.benchmarks.core.cell import TEACHER_END, PointKey, Record
from wheels.benchmarks.core.decodes import Decode, decode_all, scored_task
from wheels.benchmarks.core.results import plain_values, write_result
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.curve.decodes import CurvePlan, decodes_of, make_plan, points_digest, rows_digest
from wheels.config.parsing import to_dict, versions, write_resolved
from wheels.data.tasks import Row, Task
from wheels.decoding.methods.method import deferral
from wheels.decoding.params import DecodeParams
from wheels.json_text import json_digest
from wheels.metrics import sentence_scores, sentence_statistics, signature
from wheels.metrics.names import Reference
from wheels.models.readable import readable_rows
from wheels.runs import LINES, chunks, claim

INCIDENTAL = ("output", "threads", "batch_size", "model", "teacher")
"""Settings that change no figure, or are known by the digest of what they name."""
PART = 20
"""Rows that are searched together, and kept when all are done."""


@dataclass(frozen=True)
class Work:
    """What is searched, and where what was found is kept."""

    config: CeilingConfig
    task: Task
    plan: CurvePlan
    rows: Sequence[Row]
    made_from: Mapping[str, Any]
    """Everything that the texts depend on."""
    folder: Path

    @property
    def sources(self) -> list[str]:
        """What the texts are written from."""
        return [row.source for row in self.rows]

    @property
    def guide(self) -> str:
        """The sentence metric that the search grows by: single texts are scored with chrF for BLEU."""
        return "chrf" if self.task.metrics[0] == "bleu" else self.task.metrics[0]


def run(config: CeilingConfig) -> dict[str, Any]:
    """Decode, search, write the results to `config.output`, print the tables, and return what `ceiling.json` holds.

    Raises:
        WheelsError: for what the user can mend: data, model, a missing calibration, or one on the scored rows.
    """
    task = scored_task(config)
    split = task.rows(config.split)
    digest, rows, curve = rows_digest(split), split[: config.limit], _curve_config(config)
    plan = make_plan(curve, digest)
    rows = readable_rows(plan.artefact.pair, rows, f"{task.name}: {config.split}", config.bad_rows)
    made_from = to_dict(config, (*INCIDENTAL, "resamples", "metrics"))
    made_from |= {"data_digest": digest, "points_digest": points_digest(curve, plan, digest)}
    kept = (Path(config.output) / "ceiling.json").is_file
    identity = made_from | {"resamples": config.resamples, "metrics": list(task.metrics)}
    with claim(config.output, "bench ceiling", config, identity, kept=kept) as held:
        work = Work(config, task, plan, rows, made_from, held.folder)
        outputs = _decode(work, decodes_of(curve, plan, digest, len(rows)))
        return _measure(work, outputs)


def _curve_config(config: CeilingConfig) -> CurveConfig:
    """Return the settings of the curve whose rules are held against the ceiling."""
    shared = (
        "model", "teacher", "data", "split", "source", "target", "bad_rows", "metrics", "rules", "seeds", "limit",
        "batch_size", "max_new_tokens", "resamples", "output", "device", "dtype", "threads",
    )  # fmt: skip
    return CurveConfig(budgets=(0.0, *config.budgets, 1.0), **{name: getattr(config, name) for name in shared})


def _decode(work: Work, decodes: Mapping[PointKey, Decode]) -> dict[PointKey, list[Record]]:
    """Return the records of decodes, kept or made now."""
    return decode_all(work.plan.artefact.pair, work.sources, decodes, work.folder / "points", work.config.batch_size)


def _measure(work: Work, outputs: dict[PointKey, list[Record]]) -> dict[str, Any]:
    """Search, decode what was found, score, write and print."""
    config, task, references = work.config, work.task, [row.scored_against for row in work.rows]
    statistics = partial(sentence_statistics, sources=work.sources)
    found, did = _search(work, outputs)
    targets: dict[str, tuple[str, Sequence[Reference]]] = {
        ceiling_of(metric): (metric, references) for metric in task.metrics
    }
    targets[IMITATION] = (work.guide, [record.text for record in outputs[TEACHER_END]])
    sets, halves = call_sets(found, targets, config.budgets, work.sources)
    outputs = outputs | _decode(work, {key: _ceiling_decode(work, key, calls) for key, calls in sets.items()})
    result = {
        "task": task.name,
        "student_name": work.plan.artefact.student_name,
        "teacher_name": work.plan.artefact.teacher_name,
        "rows": len(work.rows),
        "metrics": {metric: signature(metric, references) for metric in task.metrics},
        "rules": list(work.plan.seeds),
        "budgets": list(config.budgets),
        "notes": work.plan.notes,
        "claim": CLAIM,
        "search": did | {"half": halves},
        **summarise(
            outputs, references, task.metrics, list(work.plan.seeds), config.budgets, config.resamples, statistics
        ),
        "data_digest": work.made_from["data_digest"],
        "model_digest": work.plan.model_digest,
        "versions": versions(),
    }
    facts = {name: result[name] for name in ("data_digest", "model_digest")}
    write_resolved(config, work.folder, facts)
    plain = plain_values(result)
    write_result(work.folder, "ceiling", plain, as_csv(plain), draw)
    print(as_text(result))
    print(f"written to {work.folder}: ceiling.json, ceiling.csv, ceiling.png, ceiling-dark.png")
    return result


def _ceiling_decode(work: Work, key: PointKey, calls: Sequence[Calls]) -> Decode:
    """Return the decode of the sets of calls of a ceiling."""
    params = DecodeParams(max_new_tokens=work.config.max_new_tokens)
    made_from = {**work.made_from, "calls": json_digest(calls)}
    return Decode(f"{key.rule} at {key.budget:g}", deferral(CallSetRule.of(calls)), params, made_from)


def _search(work: Work, outputs: Mapping[PointKey, Sequence[Record]]) -> tuple[list[Found], dict[str, Any]]:
    """Return what the search found for each row, and what it did; parts that were kept are not searched again."""
    config, found = work.config, list[Found]()
    targets = [row.scored_against for row in work.rows]

    def score(rows: list[int], texts: list[str]) -> list[float]:
        read = [work.sources[row] for row in rows]
        return sentence_scores(work.guide, texts, [targets[row] for row in rows], read)

    params = DecodeParams(max_new_tokens=config.max_new_tokens)
    sources = [row.source for row in work.rows]
    writer = Writer(work.plan.artefact.pair, sources, score, params, config.batch_size)
    parts, rounds = range(-(-len(work.rows) // PART)), 0
    made_from = {**work.made_from, "guide": work.guide}
    with tqdm(total=len(work.rows), desc="search", unit="row", file=sys.stderr) as bar:

        def make(number: int) -> list[dict[str, Any]]:
            rows = range(number * PART, min((number + 1) * PART, len(work.rows)))
            starts = _starts(writer, rows, outputs)
            searches = {row: RowSearch(starts[row], config.texts) for row in rows}
            took = search(searches, writer.write, bar.update)
            return [_line(searches[row], took) for row in rows]

        for number, lines in enumerate(chunks(work.folder / "search", made_from, parts, make, LINES)):
            found += [_found(line) for line in lines]
            rounds += lines[0]["rounds"]
            bar.update(min((number + 1) * PART, len(work.rows)) - bar.n)
    texts, closed = sum(len(one.texts) for one in found), sum(one.closed for one in found)
    return found, {"texts": texts, "rounds": rounds, "closed": closed, "most": config.texts, "guide": work.guide}


def _starts(
    writer: Writer, rows: Sequence[int], outputs: Mapping[PointKey, Sequence[Record]]
) -> dict[int, list[Calls]]:
    """Return the sets of calls that each row's search begins with: those of every rule, seed and budget."""
    keys = [key for key in outputs if key.budget > 0]
    written = [(row, outputs[key][row].token_ids) for key in keys for row in rows]
    sets = writer.effective([row for row, _ in written], [tokens for _, tokens in written])
    starts: dict[int, list[Calls]] = {row: [] for row in rows}
    for (row, _), calls in zip(written, sets, strict=True):
        starts[row].append(calls)
    return starts


def _line(one: RowSearch, rounds: int) -> dict[str, Any]:
    """Return what a row's search found as JSON."""
    texts = [[text.calls, text.length, text.text, text.score] for text in one.texts]
    return {"closed": one.closed, "rounds": rounds, "texts": texts}


def _found(line: Mapping[str, Any]) -> Found:
    """Return what a line says was found."""
    texts = [Text(tuple(calls), length, text, score) for calls, length, text, score in line["texts"]]
    return Found(texts, line["closed"])
