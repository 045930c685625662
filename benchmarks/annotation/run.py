"""`wheels bench annotation`: student quality by annotation budget and strategy, with teachers that make errors."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import wheels
from wheels.annotation import models
from wheels.annotation.ledger import read_account
from wheels.benchmarks.annotation.cells import Bench, filter_trial, grid, run_cell, write_retraining
from wheels.benchmarks.annotation.config import AnnotationConfig, error_share, last_part
from wheels.config.parsing import to_dict, write_resolved
from wheels.data.rows import Row, load_rows
from wheels.data.tasks import digest, load_task
from wheels.errors import WheelsError
from wheels.files import write_text
from wheels.models.loading import model_digest
from wheels.runs import cached, claim

log = logging.getLogger("wheels")

INCIDENTAL = (
    "output", "threads", "resamples", "strategies", "budgets", "teachers", "assistants", "warm_up", "warm_ups", "seeds",
)  # fmt: skip
"""What the cells do not depend on, or have in their names: a grid may grow in the folder where it began."""


def run(config: AnnotationConfig) -> None:
    """Run the missing cells, and write the figures, the tables and the plot.

    Raises:
        WheelsError: for inputs that do not fit, or a folder that holds another run.
    """
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    bench = open_bench(config)
    with claim(config.output, "bench annotation", config, _identity(bench), kept=partial(_kept, bench), grows=True):
        _run_cells(config, bench)


def _run_cells(config: AnnotationConfig, bench: Bench) -> None:
    """Run the missing cells, then write and print the results."""
    write_retraining(config)
    cells, filters = grid(config), _filters(bench)
    log.info("%d cells, each of which trains a student and scores it", len(cells))
    results, bar = {}, tqdm(cells, desc="cells", unit="cell", file=sys.stderr)
    for cell in bar:
        bar.set_postfix_str(cell.name)
        results[cell] = run_cell(bench, cell)

    from wheels.benchmarks.annotation.plot import draw
    from wheels.benchmarks.annotation.summary import summarise
    from wheels.benchmarks.annotation.table import as_csv, as_text
    from wheels.benchmarks.core.results import write_result

    summary = summarise(bench, results, _start(bench)) | {"filters": filters}
    output = bench.output
    write_result(output, "annotation", summary, as_csv(summary), draw)
    write_resolved(config, output, {"data_digest": _digest(bench)})
    write_text(output / "annotation.txt", as_text(summary))
    print(as_text(summary), end="")


def open_bench(config: AnnotationConfig) -> Bench:
    """Read the rows.

    Raises:
        WheelsError: for a folder without one of the splits, bad rows, or a budget that is larger than the pool.
    """
    task = load_task(config.data, metrics=config.shown)
    for split in ("train", "validation", "test") if config.rehearse else ("validation", "test"):
        task.rows(split)
    seen: dict[str, Row] = {}
    for row in load_rows(config.pool, limit=config.pool_limit):
        seen.setdefault(row.source, row)
    if max(config.budgets) > len(seen):
        raise WheelsError(f"budgets must be at most the {len(seen)} rows of {config.pool}, got {max(config.budgets)}")
    return Bench(config, task, list(seen.values()))


def _digest(bench: Bench) -> str:
    """Return the digest of all rows."""
    return digest({**bench.task.splits, "pool": bench.pool})


def _identity(bench: Bench) -> dict[str, Any]:
    """Return everything that the cells depend on."""
    config = bench.config
    identity = to_dict(config, INCIDENTAL)
    models_of = {
        "assistant": config.assistants,
        "teacher": [name for name in config.teachers if error_share(name) is None],
    }
    # By what the cells are named after: another model of the same last part would be taken for the one before.
    identity |= {f"{role} {last_part(name)}": model_digest(name) for role, names in models_of.items() for name in names}
    identity["student_digest"] = model_digest(config.student)
    return identity | {"data_digest": _digest(bench), "wheels": wheels.__version__}


def _kept(bench: Bench) -> bool:
    """Whether a cell holds the result of some work."""
    return any(map(_is_kept, (bench.output / "cells").rglob("*")))


def _is_kept(file: Path) -> bool:
    """Whether a file holds finished work."""
    if file.name == "ledger.jsonl":
        return read_account(file).bought
    return file.is_file() and file.name != "ledger.jsonl.lock"


def _start(bench: Bench) -> list[str]:
    """Return the untrained student's outputs for the test rows."""

    def make() -> list[str]:
        settings = bench.settings(grid(bench.config)[0], bench.output)
        model = models.load_local(settings, bench.config.student, "student")
        return model.answers([row.source for row in bench.test])

    return cached(bench.output / "cells" / "start.json", None, make)


def _filters(bench: Bench) -> list[dict[str, Any]]:
    """Return the effect of each assistant's filter on the pool, for each teacher that makes errors."""
    from dataclasses import asdict

    from wheels.benchmarks.annotation.summary import filter_figures, score_figures

    config, lines = bench.config, []
    for teacher in (name for name in config.teachers if error_share(name) != 0.0):
        # A model writes the same labels whatever the seed: its repetitions would be counted as new ones.
        seeds = 1 if error_share(teacher) is None else config.seeds
        for assistant in config.assistants:
            labels_I = [filter_trial(bench, assistant, teacher, seed) for seed in range(seeds)]
            figures = filter_figures(labels_I, config.resamples) | score_figures(labels_I, config.resamples)
            lines.append(
                {"assistant": last_part(assistant), "teacher": last_part(teacher), "seeds": len(labels_I)}
                | {name: asdict(figure) for name, figure in figures.items()}
            )
    return lines
