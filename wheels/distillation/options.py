"""Training configurations in YAML, read by TRL's parser, with our errors."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Set
from pathlib import Path
from typing import Any, NoReturn

from trl import TrlParser

from wheels.config import parsing as configs
from wheels.config.fields import check_known
from wheels.distillation.config import PretrainConfig
from wheels.errors import WheelsError
from wheels.models.loading import first_line

# What `PretrainConfig` sets itself, and the field that does.
OURS = {
    "output_dir": "output",
    "seed": "seed",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "learning_rate": "learning_rate",
    "warmup_steps": "warmup",
    "lr_scheduler_type": "schedule",
    "logging_steps": "log_every",
    "eval_steps": "eval_every",
    "save_steps": "eval_every",
    "use_cpu": "device",
    "bf16": "dtype",
    "fp16": "dtype",
    "temperature": "temperature",
    "beta": "beta",
    "lmbda": "lmbda",
    "seq_kd": "objective",
    "max_new_tokens": "max_target_length",
    "eval_strategy": "eval_every",
    "save_strategy": "eval_every",
    "load_best_model_at_end": "eval_limit",
    "metric_for_best_model": "metric",
    "greater_is_better": "metric",
    "resume_from_checkpoint": "resume",
    "teacher_model_name_or_path": "teacher",
}

# Options that do here what transformers says of them. Any other is refused: it would be read and change nothing.
_LEARNING = """lr_scheduler_kwargs optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2 adam_epsilon
    max_grad_norm neftune_noise_alpha data_seed full_determinism train_sampling_strategy dataloader_drop_last"""
_MACHINE = """tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
    gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode use_liger_kernel
    liger_kernel_config use_cache torch_empty_cache_steps auto_find_batch_size accelerator_config parallelism_config
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug"""
_KEEPING = """logging_strategy logging_first_step log_on_each_node include_num_input_tokens_seen report_to run_name
    project trackio_space_id trackio_bucket_id trackio_static_space_id save_only_model save_on_each_node
    save_total_limit enable_jit_checkpoint ignore_data_skip"""
OF_BOTH = frozenset(f"{_LEARNING} {_MACHINE} {_KEEPING}".split())
OF_OURS = OF_BOTH | {"eval_delay", "eval_on_start"}
OF_TRL = OF_BOTH | {"activation_offloading", "disable_dropout"}
# Why some that one may look for are not among them.
REASONS = {
    "label_smoothing_factor": "the loss is that of --objective",
    "predict_with_generate": "scores are always those of generated texts",
    "generation_max_length": "--max-target-length is the longest output",
    "generation_num_beams": "outputs are greedy",
    "push_to_hub": "nothing of a run is pushed; push its folder when it is done",
    "disable_tqdm": "bars are shown on terminals",
    "logging_nan_inf_filter": "a loss that is no number stops the run",
    "per_device_eval_batch_size": "--batch-size is that of scoring too",
    "bf16_full_eval": "--dtype says what the student computes in",
    "fp16_full_eval": "--dtype says what the student computes in",
}


def read_config(path: str | Path) -> PretrainConfig:
    """Return the `PretrainConfig` that a YAML file holds, as `wheels pretrain --config` would.

    Raises:
        WheelsError: naming the file, for an unknown key or a value that is not allowed.
    """
    # TRL's parser hands a field's metadata to argparse, which knows none of ours: give it the names and types alone.
    hints = typing.get_type_hints(PretrainConfig)
    plain = dataclasses.make_dataclass(
        "PretrainConfig", [(f.name, hints[f.name] | None, None) for f in dataclasses.fields(PretrainConfig)]
    )
    try:
        return configs.build(PretrainConfig, read_options(path, plain))
    except WheelsError as error:
        raise WheelsError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def read_options(path: str | Path, config_class: Any) -> dict[str, Any]:
    """Return the values of a YAML file of `config_class` (such as transformers' TrainingArguments), with its types.

    Only what the file gives: defaults are left out.

    Raises:
        WheelsError: naming the file, for what is not YAML, an unknown key, or a value of another type.
    """
    given = _read_mapping(path)
    check_known_in(path, list(given), [field.name for field in dataclasses.fields(config_class) if field.init])
    hints = typing.get_type_hints(config_class)
    for name, value in given.items():
        _check_kind(path, name, value, hints[name])
    parser = TrlParser(config_class)

    def refuse(message: str) -> NoReturn:
        raise WheelsError(f"{path}: {message.removeprefix('argument ')}")

    parser.error = refuse  # type: ignore[method-assign]
    # As text, so that argparse converts and checks each value instead of trusting what YAML made of it.
    left = parser.set_defaults_with_config(
        **{name: str(value) if isinstance(value, int | float) else value for name, value in given.items()}
    )
    assert not left, left
    try:
        (read,) = parser.parse_args_into_dataclasses(args=[])
    except WheelsError:
        raise
    except Exception as error:  # what transformers makes of a value, such as a package that it wants and does not find
        raise WheelsError(f"{path}: {first_line(error)}") from error
    return {name: getattr(read, name) for name in given}


def further_options(path: str | Path, config_class: Any, taken: Set[str]) -> dict[str, Any]:
    """Return the options of a file that go to transformers' or TRL's own configuration.

    Args:
        path: the file.
        config_class: theirs.
        taken: the names of options that do something here.

    Raises:
        WheelsError: for what `read_options` refuses, and for an option that has a flag of `wheels pretrain`, or none
            and no effect.
    """
    known = {field.name for field in dataclasses.fields(config_class) if field.init}
    for name in known & set(_read_mapping(path)):
        if name in OURS:
            raise WheelsError(f"{path}: {name} is set by --{OURS[name].replace('_', '-')}; take it out of the file")
        if name not in taken:
            reason = f" ({REASONS[name]})" if name in REASONS else ""
            raise WheelsError(f"{path}: {name} has no effect here{reason}; take it out of the file")
    options = read_options(path, config_class)
    if options.get("train_sampling_strategy") == "group_by_length":
        raise WheelsError(
            f"{path}: train_sampling_strategy must be random or sequential, got 'group_by_length'; "
            "use --group-by-length"
        )
    if "optim_args" in options and "optim" not in options:
        raise WheelsError(f"{path}: optim_args has no effect without optim; give both, or neither")
    return options


def check_known_in(path: str | Path, names: list[str], known: list[str]) -> None:
    """Refuse a key that is unknown, naming the file."""
    try:
        check_known(names, known, "key")
    except WheelsError as error:
        message = str(error) if len(str(error)) < 300 else str(error).split(";")[0]
        raise WheelsError(f"{path}: {message}") from None


def _check_kind(path: str | Path, name: str, value: Any, hint: Any) -> None:
    """Refuse what argparse accepts wrongly: a list, a mapping or None where a field has none, nan and infinity."""
    allowed = {typing.get_origin(part) or part for part in (typing.get_args(hint) or (hint,))}
    kind = type(value)
    if kind in (list, dict, type(None)) and not allowed & {kind, Any}:
        raise WheelsError(f"{path}: {name} must be one value, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise WheelsError(f"{path}: {name} must be a finite number, got {value}")


def _read_mapping(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file."""
    return {str(name): value for name, (value, _) in configs.read_mapping(path).items()}
