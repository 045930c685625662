"""`wheels pretrain`: train a student on references, or on a teacher, into a plain model folder."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from wheels.config.fields import fields_of
from wheels.config.parsing import read_mapping, to_dict, write_resolved
from wheels.config.paths import settings_digests
from wheels.data.tasks import Row, Task, load_task
from wheels.distillation.arguments import blaming, check_packages, steps_per_epoch, training_arguments
from wheels.distillation.cached_teacher import numbered, open_cache
from wheels.distillation.callbacks import train_to_end
from wheels.distillation.collate import Collator, Example
from wheels.distillation.config import JUDGED, PretrainConfig
from wheels.distillation.generation import outputs_of
from wheels.distillation.multitask import Rationales, load_rationales
from wheels.distillation.path_loss import PathSettings, attach_value, detach_value
from wheels.distillation.run_folder import CHECKPOINTS, FACTS, METRICS_LOG
from wheels.distillation.teacher_cache import TeacherCache
from wheels.distillation.teacher_outputs import TEACHER_OUTPUTS, tokens_written
from wheels.distillation.trainer import CausalKDTrainer, Evaluator, KDTrainer, Objective
from wheels.distillation.training_data import (
    TrainingData,
    load_training_data,
    plain_prompt,
    shared_with,
    targets_of,
    training_examples,
)
from wheels.endpoints.address import is_address
from wheels.errors import WheelsError
from wheels.files import write_json
from wheels.metrics import code_of_metric, find_metric, score
from wheels.models.adapters import check_peft, with_lora
from wheels.models.devices import check_device
from wheels.models.families import refusal
from wheels.models.loading import load_config, model_digest, save_model, set_loading
from wheels.models.places import check_place
from wheels.processes import is_first, say_what_was_not_done, wait_for_first
from wheels.reports import check_reports
from wheels.runs import claim, last_whole, results_in

log = logging.getLogger("wheels")

# What does not change the result: a run may go on with other values of these.
INCIDENTAL = (
    "output",
    "resume",
    "threads",
    "device",
    "teacher_device",
    "log_every",
    "report_to",
    "cache",
    "teacher_key",
)
# What changes nothing in a run with a live teacher.
OF_CACHES = ("cached_logits", "cache_temperatures")

# What means nothing without rationales.
OF_RATIONALES = ("rationale", "rationale_weight", "label_prefix", "rationale_prefix")


def run(config: PretrainConfig) -> Path:
    """Train as `config` says and return the folder of the student.

    An interrupted run resumes from its last checkpoint and ends with the same weights; a finished one returns at once.

    Raises:
        WheelsError: for data, models or settings that do not fit.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    _check_machine(config)
    say_what_was_not_done(config.device)
    check_reports(config.report_to)
    task = load_task(
        config.data,
        source=config.source,
        target=config.target,
        rationale=config.rationale,
        limit=config.limit,
        bad_rows=config.bad_rows,
    )
    metrics = _metrics(config, task)
    if config.options is not None:
        _check_options(config)
    set_loading(attn_implementation=config.attn_implementation, trust_remote_code=config.trust_remote_code)
    _check_places(config)
    folder = Path(config.output).absolute()
    rationales = load_rationales(config, task, plain_prompt(config, task))
    identity = _identity(config, task, rationales)

    never = config.resume == "never"

    def kept() -> bool:
        return not never and ((folder / FACTS).exists() or last_whole(folder / CHECKPOINTS) is not None)

    advice = "give another --output, or --resume never to start over"
    with claim(folder, "pretrain", config, identity, kept=kept, advice=advice) as held:
        if never or not held.resumed:
            held.note.pop("finished", None)
            for name in (FACTS, METRICS_LOG):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        if held.finished:
            log.info("%s is done already", folder)
        else:
            _train_into(folder, config, task, rationales, metrics)
            held.finish(*results_in(folder))
            if is_first():
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return folder


def _check_places(config: PretrainConfig) -> None:
    """Refuse names of models that can be none, and say which models could not be decoded once this is done."""
    for role, name in (("student", config.student), ("teacher", config.teacher), ("tokenizer", config.tokenizer)):
        if name is not None and not is_address(name):
            check_place(name, role)
            if role != "tokenizer" and (reason := refusal(load_config(name, role=role))) is not None:
                log.warning("train, generate and bench cannot read the %s %r afterwards: %s", role, name, reason)


def _train_into(
    folder: Path, config: PretrainConfig, task: Task, rationales: Rationales | None, metrics: Sequence[str]
) -> None:
    """Train the student; write it and the run's summary into its folder."""
    data = load_training_data(config, task, rationales)
    examples = training_examples(config, data, task.train, folder / TEACHER_OUTPUTS, rationales)
    validation = _validation(config, task)
    merge = with_lora(data.student, config.lora_rank, config.seed) if config.lora_rank else None
    log.info("training on %s", workload(config, len(examples), len(validation)))
    if config.trainer == "trl":
        from wheels.distillation.trl_baseline import train_with_trl

        facts = train_with_trl(config, data, examples, folder)
    else:
        facts = train(config, data, examples, folder, validation, metrics)
    if merge is not None:
        merge()
    save_model(data.student, data.pair.tokenizer, folder)
    if is_first():
        write_resolved(config, folder, {"data_digest": task.digest, "prompt": data.pair.prompt.noted})
        write_json(folder / FACTS, facts)
    wait_for_first()


def train(
    config: PretrainConfig,
    data: TrainingData,
    examples: list[Example],
    folder: Path,
    validation: Sequence[Row],
    metrics: Sequence[str],
) -> dict[str, Any]:
    """Train the student of `data` in place; it ends with the best checkpoint's weights.

    Args:
        config: what to do.
        data: the models.
        examples: the training rows.
        folder: where checkpoints and `metrics.jsonl` go.
        validation: rows to score; empty: nothing is scored and the last weights are kept.
        metrics: their names; the first picks the checkpoint.

    Returns:
        the steps taken, and the best step with its score.
    """
    trainer = make_trainer(config, data, examples, folder, validation, metrics)
    state = train_to_end(trainer, folder, config.options)
    detach_value(data.student)
    facts: dict[str, Any] = {"steps": state.global_step, "rows": len(examples), "prompt": data.pair.prompt.noted}
    if config.rationale is not None:
        facts["rationales"] = sum("rationale" in example for example in examples)
    if data.teacher is not None:
        written = tokens_written(folder / TEACHER_OUTPUTS) if targets_of(config) != "references" else 0
        facts["teacher_tokens"] = trainer.tokens_scored() + written
    if trainer.cache is not None:
        # Each target once, whatever the epochs; runs that share a cache share them.
        facts |= {"teacher_tokens": trainer.cache.tokens, "cache": trainer.cache.folder.name}
    if validation:
        facts |= {"best_step": state.best_global_step, "metric": metrics[0], "value": state.best_metric}
    return facts


def make_trainer(
    config: PretrainConfig,
    data: TrainingData,
    examples: list[Example],
    folder: Path,
    validation: Sequence[Row],
    metrics: Sequence[str],
) -> KDTrainer | CausalKDTrainer:
    """Return the trainer of a run, ready to start; the arguments are those of `train`."""
    pair = data.pair
    seq2seq = pair.is_seq2seq
    arguments = training_arguments(config, folder, len(examples), metrics[0] if validation else None, seq2seq=seq2seq)
    kind = KDTrainer if seq2seq else CausalKDTrainer
    collator = Collator.of(pair, data.other)
    cache = open_cache(config, data, examples, folder, collator) if config.cached_logits else None
    objective = _objective(config, data, cache)
    value = attach_value(pair.student, objective.paths, config.seed) if config.objective == "pcl" else None
    with blaming(config.options):
        return kind(
            pair.student,
            arguments,
            teacher=data.teacher if config.objective in JUDGED else None,
            objective=objective,
            collator=collator,
            train_examples=numbered(examples) if cache else examples,
            evaluator=_evaluator(config, data, validation, metrics) if validation else None,
            value=value,
            cache=cache,
            shared=shared_with(data, examples[0]) if "teacher" in examples[0] else None,
            group_by_length=config.group_by_length,
        )


def _objective(config: PretrainConfig, data: TrainingData, cache: TeacherCache | None) -> Objective:
    """Return the trainer's objective: its part of the configuration, and the token ids it needs."""
    return Objective(
        name=config.objective,
        temperature=config.temperature,
        w=config.w,
        beta=config.beta,
        lmbda=config.lmbda,
        max_new_tokens=config.max_target_length,
        eos_ids=data.pair.eos_ids,
        vocab_size=cache.settings.vocab_size if cache else data.pair.vocab_size,
        context=data.pair.source_limit,
        rationale_weight=None if config.rationale is None else config.rationale_weight,
        paths=PathSettings(
            clip=config.path_clip,
            by_length=config.path_by_length,
            distribution=config.path_distribution,
            gamma=config.path_gamma,
            value_rate=config.value_rate,
            value_tau=config.value_tau,
            warm_up=config.path_warm_up if config.objective == "pcl" else 0.0,
        ),
    )


def _evaluator(config: PretrainConfig, data: TrainingData, rows: Sequence[Row], metrics: Sequence[str]) -> Evaluator:
    """Return a function that scores a model's greedy outputs for the validation rows."""
    pair = data.pair
    read, references = [row.source for row in rows], [row.scored_against for row in rows]
    sources = pair.encode(read)

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        longest, batch_size = config.max_target_length, config.batch_size
        outputs = outputs_of(pair, model, sources, max_new_tokens=longest, batch_size=batch_size)
        texts = [pair.decode(output) for output in outputs]
        return {metric: score(metric, texts, references, read).value for metric in metrics}

    return evaluate


def _check_options(config: PretrainConfig) -> None:
    """Refuse a file of options that cannot work here, before models are loaded."""
    assert config.options is not None, "asked for"
    if config.report_to and "report_to" in read_mapping(config.options):
        raise WheelsError(f"{config.options}: report_to is set by --report-to too; give one of them")
    folder = Path(config.output)
    if config.trainer == "trl":
        from wheels.distillation.trl_baseline import trl_arguments

        check_packages(config.options, trl_arguments(config, folder, 1))
    else:
        check_packages(config.options, training_arguments(config, folder, 1, None, seq2seq=False))


def workload(config: PretrainConfig, rows: int, validation: int) -> str:
    """Return what a run is going to do, in words."""
    epoch, batch = steps_per_epoch(config, rows), config.batch_size * config.gradient_accumulation
    steps = config.max_steps or math.ceil(config.epochs * epoch)
    every = min(config.eval_every or epoch, steps)
    scored = f"{validation} validation rows scored every {every} steps" if validation else "nothing is scored"
    return f"{rows} rows: {steps} steps of {batch} rows; {scored}"


def _metrics(config: PretrainConfig, task: Task) -> tuple[str, ...]:
    """Return the metrics to log; the first picks the checkpoint."""
    if config.metric is None:
        return tuple(task.metrics)
    own = find_metric(config.metric)
    return (own, *(metric for metric in task.metrics if metric != own))


def _validation(config: PretrainConfig, task: Task) -> list[Row]:
    """Return the rows to score; none if the task has no separate validation split."""
    if config.eval_limit and "validation" not in task.splits:
        log.warning("%s has no validation split: nothing is scored, the last weights are kept", task.name)
    return list(task.splits.get("validation", ()))[: config.eval_limit]


def _identity(config: PretrainConfig, task: Task, rationales: Rationales | None) -> Mapping[str, Any]:
    """Return everything that the result depends on: settings, data and the content of the models."""
    without = [*INCIDENTAL]
    without += () if config.cached_logits else OF_CACHES
    without += () if rationales is not None else OF_RATIONALES
    identity = to_dict(config, without) | code_of_metric(config.metric)
    if rationales is not None:
        identity["rationales_digest"] = hashlib.sha256(json.dumps(rationales.texts).encode()).hexdigest()[:16]
    for role in ("student", "teacher", "tokenizer"):
        if is_address(identity[role]):
            del identity[role]  # where it is says nothing of it; its name does
        elif identity[role] is not None:
            identity[f"{role}_digest"] = model_digest(identity[role])
    return identity | settings_digests(fields_of(PretrainConfig), config) | {"data_digest": task.digest}


def _check_machine(config: PretrainConfig) -> None:
    """Refuse a device or a precision that cannot train here, and adapters without their package."""
    if config.lora_rank:
        check_peft(f"lora_rank {config.lora_rank}")
    place = check_device(config.device)
    if place.index:
        raise WheelsError(
            f"device must be cpu or cuda, got {config.device!r}; pick a GPU with CUDA_VISIBLE_DEVICES={place.index}"
        )
    if config.teacher_device is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise WheelsError(
            f"teacher_device {config.teacher_device!r} is for one process, and each of several has its teacher beside "
            "it; leave it out"
        )
    if config.dtype == "float16" and place.type == "cpu":
        raise WheelsError("dtype float16 trains on a GPU only; use float32 or bfloat16 on the CPU")
