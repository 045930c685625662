"""`wheels bench curve`: decode with every rule at every budget, and measure quality against teacher use."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wheels.benchmarks.core.bootstrap import Statistics
from wheels.benchmarks.core.decodes import decode_all, scored_task
from wheels.benchmarks.core.results import plain_values, write_result
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.curve.decodes import CurvePlan, decodes_of, make_plan, points_digest, rows_digest
from wheels.benchmarks.curve.diagnostics import diagnose
from wheels.benchmarks.curve.money import as_text as money_text
from wheels.benchmarks.curve.money import money_of
from wheels.benchmarks.curve.plot import draw
from wheels.benchmarks.curve.report import report, sections
from wheels.benchmarks.curve.resampled import Measured, SentenceStatistics
from wheels.benchmarks.curve.summary import summarise
from wheels.benchmarks.curve.table import as_csv, as_text
from wheels.config.parsing import as_command, to_dict, versions, write_resolved
from wheels.data.tasks import Task
from wheels.decoding.memory import rows_for
from wheels.decoding.remote.prices import Prices
from wheels.files import write_text
from wheels.metrics import sentence_statistics, signature
from wheels.metrics.names import Reference
from wheels.models.readable import readable_rows
from wheels.runs import claim, find

INCIDENTAL = (
    *("output", "threads", "batch_size", "max_tokens_in_flight", "model", "teacher", "also", "calibration_limit"),
    *("teacher_key", "x", "prices"),
)
"""Settings that change no figure, or are known by the digest of what they name."""


def run(config: CurveConfig) -> dict[str, Any]:
    """Measure the curve, write it to `config.output`, print its main numbers, and return it.

    Raises:
        WheelsError: for what the user can mend: data, model, a missing calibration, or one on the scored rows.
    """
    task = scored_task(config)
    # The digest is of the whole split: a limit must not hide that calibration and scoring share their rows.
    data_digest = rows_digest(task.rows(config.split))
    identity = to_dict(config, INCIDENTAL) | {"data_digest": data_digest}
    kept = (Path(config.output) / "curve.json").is_file
    with claim(config.output, "bench curve", config, identity, kept=kept, grows=True) as held:
        configs = [config, *(_another(config, model, place) for place, model in enumerate(config.also, 1))]
        plans = [make_plan(each, data_digest) for each in configs]
        identity["points_digest"] = "-".join(map(partial(points_digest, data_digest=data_digest), configs, plans))
        find(held.folder, "bench curve", identity, kept=kept)  # now that models and thresholds are known
        held.note["identity"] = identity
        held.save()
        runs = [_decoded(each, plan, task, data_digest) for each, plan in zip(configs, plans, strict=True)]
        return _measure(config, held.folder, task, plans[0], runs, data_digest)


def _another(config: CurveConfig, model: str, place: int) -> CurveConfig:
    """Return the settings of one more model, whose decodes are kept in a folder of their own."""
    return replace(config, model=model, also=(), output=str(Path(config.output) / f"also-{place}"))


def _decoded(config: CurveConfig, plan: CurvePlan, task: Task, data_digest: str) -> Measured:
    """Return the outputs of one model."""
    rows = task.rows(config.split)[: config.limit]
    rows = readable_rows(plan.artefact.pair, rows, f"{task.name}: {config.split}", config.bad_rows)
    sources, decodes = [row.source for row in rows], decodes_of(config, plan, data_digest, len(rows))
    pair, most = plan.artefact.pair, config.max_tokens_in_flight
    size = rows_for(pair, sources, config.max_new_tokens, config.batch_size, most)
    return Measured(
        task=task.name,
        student=plan.artefact.student_name,
        teacher=plan.artefact.teacher_name,
        sources=sources,
        references=[row.scored_against for row in rows],
        metrics=task.metrics,
        budgets=config.budgets,
        rules=tuple(plan.seeds),
        mode=config.mode,
        outputs=decode_all(pair, sources, decodes, Path(config.output) / "points", size),
        resamples=config.resamples,
        notes=plan.notes,
    )


def _measure(
    config: CurveConfig, folder: Path, task: Task, plan: CurvePlan, runs: Sequence[Measured], data_digest: str
) -> dict[str, Any]:
    """Score, write and print; the diagnostics are of the first model."""
    measured = runs[0] if len(runs) == 1 else Measured.pooled(runs)
    curve = summarise(measured, _with_progress(len(measured.outputs) * len(task.metrics), measured.sources))
    curve["metric_signatures"] = {metric: signature(metric, measured.references) for metric in task.metrics}
    curve["versions"] = versions()
    write_resolved(config, folder, {"data_digest": data_digest, "model_digest": plan.model_digest})
    diagnostics = diagnose(config, plan, runs[0], task, data_digest)
    curve["details"] = diagnostics.details
    if config.prices:
        lengths = list(map(len, plan.artefact.pair.encode(measured.sources)))
        curve["details"] |= {"money": money_of(measured, lengths, Prices.of(config.prices))}
    write_results(curve, measured, folder, sections(curve, diagnostics), as_command("wheels bench curve", config))
    print(as_text(curve))
    if config.prices:
        print(money_text(curve))
    print(f"written to {folder}: curve.json, curve.csv, curve.png, curve-dark.png, report.html")
    return curve


def write_results(
    curve: Mapping[str, Any], measured: Measured, folder: Path, diagnostics: Sequence[str], command: str
) -> None:
    """Write the curve as JSON, CSV, picture and page; `diagnostics` are more sections of the page."""
    picture = write_result(folder, "curve", plain_values(curve), as_csv(curve), draw)
    write_text(folder / "report.html", report(curve, picture, measured, diagnostics, command))


def _with_progress(total: int, sources: Sequence[str]) -> SentenceStatistics:
    """Return `sentence_statistics` of texts from these sources, with a progress bar over its `total` calls."""
    bar = tqdm(total=total, desc="scoring", unit="point", file=sys.stderr)

    def counted(metric: str, hypotheses: list[str], references: list[Reference]) -> Statistics:
        statistics = sentence_statistics(metric, hypotheses, references, sources)
        bar.update()
        if bar.n == total:
            bar.close()
        return statistics

    return counted
