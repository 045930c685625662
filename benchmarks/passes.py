"""`wheels bench passes`: what quality each way of decoding buys for its teacher passes, and what else it costs.

Deferral spends teacher passes where a rule calls; verification spends them on drafts. On this axis they compare: one
pass is one sequential step of the large model, whatever number of positions it reads.
"""

from __future__ import annotations

import csv
import functools
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wheels import __version__
from wheels.artefact import Artefact
from wheels.benchmarks.decodes import refuse_scored, rows_digest
from wheels.benchmarks.passes_config import PassesConfig
from wheels.benchmarks.passes_plot import draw
from wheels.benchmarks.plot import metric_name
from wheels.benchmarks.records import PointKey, Record, kept_or_made
from wheels.benchmarks.stats import share_of_gap
from wheels.benchmarks.table import align, number
from wheels.config import versions, write_resolved
from wheels.data import Row, load_task
from wheels.decoding.engine import decode
from wheels.decoding.method import Method, bild, cascade, deferral, prompt_lookup, speculative, verified_deferral
from wheels.decoding.rules import SIMPLE, Rule, calibrated
from wheels.decoding.verify import TakeBack
from wheels.files import write_bytes, write_json, write_text
from wheels.metrics import score, signature

TOLERANCES = (4.0, 2.0, 1.0, 0.5)
"""Nats of regret beyond which a token is taken back."""


@dataclass(frozen=True)
class Setting:
    """One way of decoding."""

    family: str
    """The family that it belongs to."""
    label: str
    """Its setting, such as `budget 0.2, 2 nats`."""
    method: Method
    """The way itself."""
    budget: float | None
    """The teacher budget that is asked for; None where none is kept."""

    @property
    def key(self) -> PointKey:
        """The name of its decode."""
        words = "".join(character if character.isalnum() or character == "." else "-" for character in self.label)
        return PointKey(f"{self.family}-{words}", 0, -1.0 if self.budget is None else self.budget)


@dataclass(frozen=True)
class PassPoint:
    """What one way of decoding bought."""

    family: str
    label: str
    passes: float
    """Teacher passes per generated token."""
    positions: float
    """Positions of the output that the teacher read, per generated token."""
    use: float
    """Share of the tokens that the teacher wrote."""
    metrics: dict[str, float]
    """Scores."""
    gap: dict[str, float]
    """The share of the gap between student and teacher, by metric."""


def settings_of(config: PassesConfig, artefact: Artefact) -> Iterator[Setting]:
    """Yield the settings of every family that is asked for; they are fixed before, none is chosen by its score."""
    rules = {budget: calibrated(artefact, config.rule, budget, config.seed) for budget in config.budgets}
    for family in config.families:
        for label, method, budget in _family(family, rules):
            yield Setting(family, label, method, budget)


def _family(family: str, rules: Mapping[float, Rule]) -> Iterator[tuple[str, Method, float | None]]:
    """Yield the settings of one family: label, method, budget."""
    if family in ("deferral", "verified", "verified-all"):
        for budget, rule in rules.items():
            if family == "deferral":
                yield f"budget {budget:g}", deferral(rule), budget
                continue
            for nats in TOLERANCES:
                verified = verified_deferral(rule, nats, complete=family == "verified-all")
                yield f"budget {budget:g}, {nats:g} nats", verified, budget
    elif family == "take-back":
        for nats in TOLERANCES:
            yield f"16 tokens, {nats:g} nats", Method("take-back", None, TakeBack(nats, complete=True), 16), None
    elif family == "bild":
        for fallback, rollback in ((0.3, 4.0), (0.4, 3.0), (0.5, 3.0), (0.6, 3.0), (0.6, 2.0), (0.8, 2.0)):
            yield f"fallback {fallback:g}, rollback {rollback:g}", bild(fallback, rollback), None
    elif family == "cascade":
        for kind, alphas in (("opt", (0.1, 0.3, 0.6)), ("token-v3", (0.3, 0.6, 0.9))):
            for alpha in alphas:
                yield f"{kind}, alpha {alpha:g}", cascade(kind, alpha, 8), None
    else:
        yield from _speculative(family)


def _speculative(family: str) -> Iterator[tuple[str, Method, float | None]]:
    """Yield the settings of speculative decoding, lossless or lenient, and of prompt lookup."""
    if family == "speculative":
        for draft in (2, 3, 5, 8):
            yield f"drafts of {draft}", speculative(draft), None
    elif family == "lossy":
        for lenience in (0.5, 0.8, 0.9, 0.95, 0.99):
            yield f"drafts of 8, lenience {lenience:g}", speculative(8, lenience=lenience), None
    else:
        yield "drafts of 5", prompt_lookup(5), None


def run(config: PassesConfig) -> list[PassPoint]:
    """Decode the rows in every setting, score them, write the results to `config.output`, and print the table.

    Raises:
        WheelsError: for what the user can mend: data, model, a budget that was not calibrated, or one calibrated on
            the rows that are scored.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    folder = Path(config.output)
    write_resolved(config, folder)
    task = load_task(config.data, source=config.source, target=config.target, metrics=config.metrics or None)
    data_digest, rows = rows_digest(task.rows(config.split)), task.rows(config.split)[: config.limit]
    artefact = Artefact.load(config.model, teacher=config.teacher, device=config.device, dtype=config.dtype)
    refuse_scored(artefact.calibration.data_digest, data_digest)
    alone = SIMPLE["random"]
    ends = [Setting("student", "alone", deferral(alone), 0.0), Setting("teacher", "alone", deferral(alone), 1.0)]
    settings = [*ends, *settings_of(config, artefact)]
    outputs = _decode_all(config, artefact, settings, rows, data_digest)
    points = points_of(settings, outputs, [row.target for row in rows], task.metrics)
    _write(config, folder, points, task.name, artefact, {"data_digest": data_digest, "rows": len(rows)})
    print(as_text(points, task.metrics))
    print(f"written to {folder}: passes.json, passes.csv, passes.png")
    return points


def _decode_all(
    config: PassesConfig, artefact: Artefact, settings: Sequence[Setting], rows: Sequence[Row], data_digest: str
) -> list[list[Record]]:
    """Return the records of every setting, those kept by an earlier run as they are."""
    folder, found, sources = Path(config.output) / "points", [], [row.source for row in rows]
    with tqdm(total=len(settings) * len(rows), unit="row", file=sys.stderr) as bar:
        for setting in settings:
            bar.set_description(f"{setting.family}, {setting.label}")
            made_by = _signature(config, artefact, setting, data_digest, len(rows))
            make = functools.partial(_decode, config, artefact, setting, sources, bar.update)
            found.append(kept_or_made(folder, setting.key, made_by, make, bar.update))
    return found


def _decode(
    config: PassesConfig,
    artefact: Artefact,
    setting: Setting,
    sources: Sequence[str],
    progress: Callable[[int], object],
) -> list[Record]:
    """Return the records of one setting."""
    traces = decode(
        artefact.pair,
        sources,
        setting.method,
        budget=setting.budget,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        progress=progress,
    )
    return [Record.of(trace) for trace in traces]


def _signature(
    config: PassesConfig, artefact: Artefact, setting: Setting, data_digest: str, rows: int
) -> dict[str, Any]:
    """Return everything that the outputs of a setting depend on. Not the batch size: rows do not touch each other."""
    rule = setting.method.rule
    return {
        "model": artefact.digest,
        "head": artefact.head_digest(config.rule, config.seed),
        "threshold": getattr(rule, "threshold", None),
        "rule": None if rule is None else rule.name,
        "family": setting.family,
        "setting": setting.label,
        "data": data_digest,
        "rows": rows,
        "max_new_tokens": config.max_new_tokens,
        "device": config.device,
        "dtype": config.dtype,
        "wheels": __version__,
    }


def points_of(
    settings: Sequence[Setting], outputs: Sequence[Sequence[Record]], references: list[str], metrics: Sequence[str]
) -> list[PassPoint]:
    """Score every setting; the first two are the student and the teacher alone."""
    scores = [
        {metric: score(metric, [record.text for record in records], references).value for metric in metrics}
        for records in outputs
    ]
    student, teacher = scores[:2]
    points = []
    for setting, records, found in zip(settings, outputs, scores, strict=True):
        tokens = max(sum(record.tokens for record in records), 1)
        gap = {each: float(share_of_gap(found[each], student[each], teacher[each])) for each in metrics}
        points.append(
            PassPoint(
                family=setting.family,
                label=setting.label,
                passes=sum(record.teacher_passes for record in records) / tokens,
                positions=sum(record.teacher_positions for record in records) / tokens,
                use=sum(record.teacher_tokens for record in records) / tokens,
                metrics=found,
                gap=gap,
            )
        )
    return points


def _write(
    config: PassesConfig, folder: Path, points: list[PassPoint], task: str, artefact: Artefact, facts: dict[str, Any]
) -> None:
    """Write the points as JSON, CSV and a picture."""
    metrics = list(points[0].metrics)
    write_resolved(config, folder, {**facts, "model_digest": artefact.digest})
    content = {
        "task": task,
        "student": artefact.student_name,
        "teacher": artefact.teacher_name,
        **facts,
        "metrics": {metric: signature(metric) for metric in metrics},
        "versions": versions(),
        "points": [asdict(point) for point in points],
    }
    write_json(folder / "passes.json", content)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["family", "setting", "passes", "positions", "use", *metrics, *(f"gap_{each}" for each in metrics)])
    for point in points:
        numbers = [point.passes, point.positions, point.use, *point.metrics.values(), *point.gap.values()]
        writer.writerow([point.family, point.label, *(f"{value:.4f}" for value in numbers)])
    write_text(folder / "passes.csv", buffer.getvalue())
    title = f"{task}: quality against teacher passes, n = {facts['rows']}"
    write_bytes(folder / "passes.png", draw(points, metrics[0], title))


def as_text(points: Sequence[PassPoint], metrics: Sequence[str]) -> str:
    """Return the table, in order of passes within each family."""
    names = [metric_name(metric) for metric in metrics]
    table = [["method", "passes", "positions", "use", *names, *(f"gap, {name}" for name in names)]]
    families = list(dict.fromkeys(point.family for point in points))
    for point in sorted(points, key=lambda point: (families.index(point.family), point.passes)):
        shares = (number(point.gap[metric], 2) for metric in metrics)
        scores = (number(point.metrics[metric]) for metric in metrics)
        costs = (number(value, 3) for value in (point.passes, point.positions, point.use))
        table.append([f"{point.family}, {point.label}", *costs, *scores, *shares])
    return align(table) + "\n(passes and positions of the teacher per generated token; use: share of tokens it wrote)"
