"""Our configuration as arguments of transformers' trainers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from transformers import Seq2SeqTrainingArguments, Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from wheels.distillation.config import PretrainConfig
from wheels.distillation.options import OF_OURS, further_options
from wheels.distillation.run_folder import CHECKPOINTS
from wheels.errors import WheelsError
from wheels.models.loading import first_line

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def training_arguments(
    config: PretrainConfig, folder: Path, rows: int, metric: str | None, *, seq2seq: bool
) -> TrainingArguments:
    """Return transformers' own configuration of the run.

    Raises:
        WheelsError: for further options that are unknown or not allowed.
    """
    kind = Seq2SeqTrainingArguments if seq2seq else TrainingArguments
    options = further_options(config.options, Seq2SeqTrainingArguments, OF_OURS) if config.options is not None else {}
    every = config.eval_every or steps_per_epoch(config, rows)
    if metric is not None:
        scoring = {"eval_strategy": "steps", "eval_steps": every, "load_best_model_at_end": True}
        options = scoring | {"metric_for_best_model": f"eval_{metric}", "greater_is_better": True} | options
    return make_arguments(kind, config, common_arguments(config, folder, every) | options)


def make_arguments(kind: type[Arguments], config: PretrainConfig, values: dict[str, Any]) -> Arguments:
    """Return the arguments; what they refuse can only come from the file of options.

    Raises:
        WheelsError: naming the file.
    """
    with blaming(config.options or "training options"):
        arguments = kind(**values)
    # One process trains on one device; several are started by torchrun.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def check_packages(options: str, arguments: TrainingArguments) -> None:
    """Refuse options that need a missing package (an optimizer, a logger) before any work is done.

    Raises:
        WheelsError: naming the file and the package.
    """
    # A few optimizers want the model too, and say so by a ValueError; the trainer gives it to them.
    with blaming(options), suppress(ValueError):
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    with blaming(options):
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()


@contextmanager
def blaming(place: str | None, begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn an error of transformers' trainers before their first step into one line.

    Args:
        place: what made it: the file of options, or a checkpoint. None: an error stays what it is.
        begun: whether the first step has begun.

    Raises:
        WheelsError: naming the place and the error's first line.
    """
    try:
        yield
    except WheelsError:
        raise
    except Exception as error:
        if place is None or begun():
            raise
        raise WheelsError(f"{place}: {first_line(error)}") from error


def common_arguments(config: PretrainConfig, folder: Path, every: int) -> dict[str, Any]:
    """Return the configuration's own fields under transformers' names."""
    return {
        "output_dir": str(folder / CHECKPOINTS),
        "seed": config.seed,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup,
        "lr_scheduler_type": config.schedule,
        "logging_steps": config.log_every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "use_cpu": config.device == "cpu",
        "bf16": config.dtype == "bfloat16",
        "fp16": config.dtype == "float16",
        "dataloader_pin_memory": config.device != "cpu",
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "report_to": list(config.report_to) or "none",
        "run_name": folder.name,
    }


def steps_per_epoch(config: PretrainConfig, rows: int) -> int:
    """Return how many optimizer steps one pass over the rows takes."""
    batches = -(-rows // (config.batch_size * int(os.environ.get("WORLD_SIZE", "1"))))
    return max(1, -(-batches // config.gradient_accumulation))
