"""`wheels train`: states, warm start, rounds of forked texts, prices, thresholds; a killed run resumes.

Runs on accelerate, in one process or in several under `torchrun`: each process writes its share of the texts, and all
fit the same head to all of them.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from accelerate import Accelerator, InitProcessGroupKwargs

from wheels.agents.config import TrainConfig
from wheels.agents.estimate import foretold
from wheels.agents.plan import calibration_of, check_by_text, sentence_metric, workload
from wheels.agents.reports import ReportedMetrics, Reports, reporting
from wheels.agents.runlog import identity_of
from wheels.agents.seed_run import SeedRun
from wheels.agents.trainer import Trainer, with_pseudo_references
from wheels.config.fields import loading_of
from wheels.config.parsing import to_dict, write_resolved
from wheels.data.prompts import Prompt, chosen_prompt
from wheels.data.tasks import Task, load_task
from wheels.decoding.across.pair import load_pair
from wheels.decoding.commands.calibrate import calibrate_model
from wheels.decoding.memory import rows_for
from wheels.decoding.remote.pair import teacher_at
from wheels.distillation.run_folder import noted_prompt
from wheels.finite import check_weights
from wheels.models.artefact import save_deferral
from wheels.models.loading import set_loading
from wheels.models.pair import Pair
from wheels.models.readable import readable_rows
from wheels.policy.calibration import Calibration
from wheels.policy.head import DeferralHead
from wheels.policy.span_head import SpanHead
from wheels.processes import refuse_shards, say_what_was_not_done
from wheels.reports import check_reports
from wheels.runs import Run, claim, results_in
from wheels.threads import set_threads

log = logging.getLogger("wheels")


def run(config: TrainConfig) -> None:
    """Train a model; see `TrainConfig`."""
    refuse_shards(config.device)
    say_what_was_not_done(config.device)
    check_reports(config.report_to)
    output = Path(config.output)
    task = load_task(
        config.data,
        source=config.source,
        target=config.target,
        references=config.references,
        bad_rows=config.bad_rows,
    )
    prompt = chosen_prompt(config, noted_prompt(config.student), conversations=task.holds_conversations)
    sentence_metric(config, task)  # what there is not is found before the work
    for split in ("train", "validation") if config.calibrate else ("train",):
        task.rows(split)
    calibration_of(config)
    with claim(output, "train", config, identity_of(config, task.digest) | {"prompt": prompt.noted}) as held:
        if held.finished:
            if config.calibrate and not Calibration.load(output / "deferral" / "calibration.json").points:
                calibrate_model(calibration_of(config))
            log.info("%s is done already", output)
            print(_ending(config))
            return
        with reporting(config) as reports:
            _train(config, task, prompt, reports, held)


def _train(config: TrainConfig, task: Task, prompt: Prompt, reports: Reports, held: Run) -> None:
    """Train the heads of each seed, and write the model's folder."""
    output = Path(config.output)
    set_loading(attn_implementation=config.attn_implementation, trust_remote_code=config.trust_remote_code)
    teacher, name = config.teacher, config.teacher_model
    load = partial(load_pair, span=config.span) if name is None else teacher_at(teacher, name, config.teacher_key)
    pair = load(config.student, name or teacher, prompt=prompt, **loading_of(config))
    check_by_text(config, pair)
    set_threads(config.threads, pair)
    # While one process fits, the others wait for it, however long that takes.
    patient = InitProcessGroupKwargs(timeout=timedelta(days=30))
    accelerator = Accelerator(cpu=config.device == "cpu", kwargs_handlers=[patient])
    rows = readable_rows(pair, task.train[: config.limit], f"{task.name}: train", config.bad_rows)
    sources, most = [row.source for row in rows], config.max_tokens_in_flight
    count, kept = (config.count_of("texts", len(rows)), config.forks) if config.rounds else (None, 0)
    size = rows_for(pair, sources, config.max_new_tokens, config.batch_size, most, count=count, kept=kept)
    bounded = replace(config, batch_size=size)
    metric = sentence_metric(config, task)
    if accelerator.is_main_process:
        validation = len(task.splits.get("validation", ())[: config.calibration_limit])
        for line in workload(config, len(rows), validation):
            log.info(line)
        if told := foretold(bounded, pair, rows, metric, validation):
            log.info(told)
    rows = with_pseudo_references(pair, rows, bounded, output / ".training", accelerator)
    heads: dict[str, list[DeferralHead]] = {}
    prices, spans = [], []
    for seed in range(config.seed, config.seed + config.seeds):
        metrics = ReportedMetrics(output / "metrics.jsonl", seed, reports, enabled=accelerator.is_main_process)
        trainer = Trainer(SeedRun(bounded, pair, rows, metric, seed, accelerator, metrics))
        for rule, head in trainer.train().items():
            heads.setdefault(rule, []).append(head)
        prices.append(trainer.prices)
        spans += [] if trainer.spans is None else [trainer.spans]
    if accelerator.is_main_process:
        finish(config, pair, task, heads, prices, spans)
        held.finish(*results_in(output, output / "deferral"))
        shutil.rmtree(output / ".training", ignore_errors=True)
        print(_ending(config))


def _ending(config: TrainConfig) -> str:
    """Return what a run prints at its end, and whenever it is found done."""
    return f"written to {config.output}: the student, and deferral/ with {config.seeds} trained seed(s)"


def finish(
    config: TrainConfig,
    pair: Pair,
    task: Task,
    heads: dict[str, list[DeferralHead]],
    prices: list[list[float]],
    spans: list[SpanHead],
) -> None:
    """Write the model's folder, and find its thresholds."""
    output = Path(config.output)
    for rule, fitted in heads.items():
        for seed, head in enumerate(fitted):
            check_weights(head, f"end of seed {config.seed + seed}, rule {rule}")
    pair.save_student(output)
    teacher = config.teacher_model or config.teacher
    teacher = os.path.relpath(teacher, output) if Path(teacher).is_dir() else teacher
    trained = {"settings": to_dict(config), "budgets": list(config.budgets), "prices": prices}
    save_deferral(output, heads, teacher=teacher, prompt=pair.prompt, trained=trained, spans=spans)
    if config.calibrate:
        calibrate_model(calibration_of(config))
    write_resolved(config, output, {"data_digest": task.digest, "finished": True})
