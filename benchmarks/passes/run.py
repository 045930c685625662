"""`wheels bench passes`: quality of each decoding method against teacher passes, and its other costs.

Deferral spends teacher passes where a rule calls; verification spends them on drafts. On this axis they compare: one
pass is one sequential step of the large model, whatever number of positions it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.cell import PointKey, Record
from wheels.benchmarks.core.decodes import Decode, decode_all, depends_on, scored_task
from wheels.benchmarks.core.results import plain_values, write_result
from wheels.benchmarks.curve.decodes import refuse_scored, rows_digest
from wheels.benchmarks.curve.resampled import Resampled
from wheels.benchmarks.passes.config import PassesConfig
from wheels.benchmarks.passes.plot import draw
from wheels.benchmarks.passes.settings import Setting, choose, ends, seeds_of, settings_of, sweep_of, tuned
from wheels.benchmarks.passes.summary import (
    PassCurves,
    Point,
    against_envelope,
    at_equal_passes,
    beyond_speculation,
    means,
    points_of,
)
from wheels.benchmarks.passes.table import as_csv, shown
from wheels.config.fields import loading_of
from wheels.config.parsing import as_command, to_dict, versions, write_resolved
from wheels.data.tasks import Row, Task, load_task
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.models.backends import use_backend
from wheels.decoding.params import DecodeParams
from wheels.json_text import json_digest
from wheels.metrics import sentence_statistics, signature
from wheels.models.artefact import Artefact
from wheels.models.readable import readable_rows
from wheels.output.streams import remark
from wheels.runs import claim
from wheels.threads import set_threads

INCIDENTAL = ("output", "threads", "batch_size", "model", "teacher")
"""Settings that change no figure, or are known by the digest of what they name."""


@dataclass(frozen=True)
class Split:
    """Rows that are decoded, and where their outputs are kept."""

    rows: Sequence[Row]
    digest: str
    """Of the whole split: a limit must not hide that tuning and scoring share their rows."""
    folder: Path


def run(config: PassesConfig) -> list[Point]:
    """Decode the rows in every setting, score them, write the results to `config.output`, and print the tables.

    Raises:
        WheelsError: for what the user can mend: data, model, a budget that was not calibrated, or one calibrated or
            tuned on the rows that are scored.
    """
    use_backend(config.backend)
    task = scored_task(config)
    artefact = Artefact.load(config.model, teacher=config.teacher, **loading_of(config))
    set_threads(config.threads, artefact.pair)
    rows = task.rows(config.split)
    refuse_scored(artefact.calibration.data_digest, rows_digest(rows))
    scored = readable_rows(artefact.pair, rows[: config.limit], f"{task.name}: {config.split}", config.bad_rows)
    split = Split(scored, rows_digest(rows), Path(config.output) / "points")
    settings, tuning = [*ends(), *settings_of(config, artefact)], _tuning_split(config)
    identity, kept = _identity(config, artefact, settings, split, tuning), (Path(config.output) / "passes.json").is_file
    with claim(config.output, "bench passes", config, identity, kept=kept):
        return _measure(config, task, artefact, settings, split, tuning)


def _tuning_split(config: PassesConfig) -> Split | None:
    """Return the rows that the family tuned is chosen on; None where it is not asked for."""
    if config.tune_data is None:
        return None
    task = load_task(config.tune_data, source=config.source, target=config.target, bad_rows=config.bad_rows)
    rows = task.rows(config.tune_split)
    return Split(rows[: config.tune_limit], rows_digest(rows), Path(config.output) / "tune")


def _measure(
    config: PassesConfig,
    task: Task,
    artefact: Artefact,
    settings: Sequence[Setting],
    split: Split,
    tuning: Split | None,
) -> list[Point]:
    """Decode, score, write and print."""
    folder = Path(config.output)
    tried, chosen, tuned_on = _tune(config, artefact, split.digest, tuning, task.metrics[0])
    settings = [*settings, *chosen]
    outputs = _decode_all(config, artefact, settings, split)
    references = [row.scored_against for row in split.rows]
    statistics = partial(sentence_statistics, sources=[row.source for row in split.rows])
    sample = Resampled(outputs, references, task.metrics, statistics, config.resamples, 0)
    place = (task.name, artefact.student_name, artefact.teacher_name)
    points = points_of(settings, outputs, sample, task.metrics, place)
    facts = {"data_digest": split.digest, "rows": len(split.rows), "resamples": config.resamples} | tuned_on
    write_resolved(config, folder, {**facts, "model_digest": artefact.digest})
    names = dict(zip(("task", "student", "teacher"), place, strict=True))
    found = {**names, **facts, "notes": seeds_of(config, artefact)[1], **_found(settings, sample, points, task.metrics)}
    found["tuned"] = tried
    write_result(folder, "passes", plain_values(found), as_csv(points, task.metrics), draw)
    print(shown(found))
    print(f"written to {folder}: passes.json, passes.csv, passes.png")
    for each in (each for each in chosen if each.seed in (None, 0)):
        remark(f"tuned, {each.label}: {generate_command(config, each)}")
    return points


def _identity(
    config: PassesConfig, artefact: Artefact, settings: Sequence[Setting], split: Split, tuning: Split | None
) -> dict[str, Any]:
    """Return everything that the comparison depends on."""
    identity = to_dict(config, INCIDENTAL)
    identity |= {"data_digest": split.digest, "model_digest": artefact.digest}
    if tuning is not None:
        identity["tune_data_digest"] = tuning.digest
    identity["points_digest"] = json_digest([_signature(config, artefact, setting, split) for setting in settings])
    return identity


def _found(
    settings: Sequence[Setting], sample: Resampled, points: Sequence[Point], metrics: Sequence[str]
) -> dict[str, Any]:
    """Return points, bands and comparisons."""
    curves = PassCurves(settings, sample)
    return {
        "metrics": {metric: signature(metric, sample.references) for metric in metrics},
        "versions": versions(),
        "points": points,
        "bands": curves.bands(metrics),
        "at_passes": at_equal_passes(curves, metrics),
        "versus": against_envelope(curves, metrics),
        "speculation": beyond_speculation(means(points), metrics[0]),
    }


def _tune(
    config: PassesConfig, artefact: Artefact, data_digest: str, split: Split | None, metric: str
) -> tuple[list[dict[str, Any]], list[Setting], dict[str, Any]]:
    """Run the sweep on other rows; return its settings, the chosen ones for every seed, and facts.

    The sweep reads the first trained head alone; each seed then has the chosen settings with its own thresholds.
    """
    if split is None:
        return [], [], {}
    refuse_scored(split.digest, data_digest, what="settings of the family tuned would be chosen")
    seeds = seeds_of(config, artefact)[0]
    settings = sweep_of(config, artefact, seeds[0])
    outputs = _decode_all(config, artefact, settings, split)
    tried = choose(settings, [outputs[setting.key] for setting in settings], split.rows, metric)
    names = [each["name"] for each in tried if each["chosen"]]
    every = {each.key: each for seed in seeds for each in tuned(sweep_of(config, artefact, seed), names)}
    return tried, list(every.values()), {"tuned_on": split.digest, "tuned_on_rows": len(split.rows)}


def _decode_all(
    config: PassesConfig, artefact: Artefact, settings: Sequence[Setting], split: Split
) -> dict[PointKey, list[Record]]:
    """Return the records of every setting, those kept by an earlier run as they are."""
    params, model = DecodeParams(max_new_tokens=config.max_new_tokens), {"model": artefact.digest}
    decodes = {
        each.key: Decode(each.name, each.method, params, _signature(config, artefact, each, split) | model)
        for each in settings
    }
    return decode_all(artefact.pair, [row.source for row in split.rows], decodes, split.folder, config.batch_size)


def _signature(config: PassesConfig, artefact: Artefact, setting: Setting, split: Split) -> dict[str, Any]:
    """Return everything that the outputs of a setting depend on beside the models."""
    facts = depends_on(config, artefact, setting.method.rule, setting.seed, split.digest, len(split.rows))
    return facts | {"setting": setting.name}


def generate_command(config: PassesConfig, setting: Setting) -> str:
    """Return the `wheels generate` that decodes as a setting of the sweep does."""
    family = setting.label.split(",")[0] if setting.family == "tuned" else setting.family
    ruled = setting.budget is not None
    return as_command(
        "wheels generate",
        GenerateConfig(
            text="TEXT",
            model=config.model,
            teacher=config.teacher,
            method="verified" if family == "verified-all" else family,
            teacher_budget=setting.budget,
            rule=config.rule if ruled else GenerateConfig.rule,
            draft_length=setting.method.draft,
            tolerance=setting.tolerance,
            verify_end=ruled and setting.method.complete,
            seed=setting.seed or 0,
            **loading_of(config),
        ),
    )
