"""Training configurations in YAML, read by TRL's parser, with our errors."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, NoReturn

from trl import TrlParser

from wheels import config as configs
from wheels.distillation.pretrain_config import PretrainConfig
from wheels.errors import WheelsError
from wheels.fields import check_known

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
    except (ValueError, TypeError) as error:
        raise WheelsError(f"{path}: {error}") from error
    return {name: getattr(read, name) for name in given}


def further_options(path: str | Path, config_class: Any) -> dict[str, Any]:
    """Return the options of a file that go to transformers' or TRL's own configuration.

    Raises:
        WheelsError: for what `read_options` refuses, and for an option that has a flag of `wheels pretrain`.
    """
    options = read_options(path, config_class)
    for name in options:
        if name in OURS:
            raise WheelsError(f"{path}: {name} is set by --{OURS[name].replace('_', '-')}; take it out of the file")
    return options


def check_known_in(path: str | Path, names: list[str], known: list[str]) -> None:
    """Refuse a key that is unknown, naming the file."""
    try:
        check_known(names, known, "key")
    except WheelsError as error:
        message = str(error) if len(str(error)) < 300 else str(error).split(";")[0]
        raise WheelsError(f"{path}: {message}") from None


def _read_mapping(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file."""
    return {str(name): value for name, (value, _) in configs.read_mapping(path).items()}
