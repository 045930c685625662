"""Models and tokenizers from folders or the Hub, with errors that a person can act on."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from wheels.errors import WheelsError, check_choice
from wheels.files import open_output
from wheels.finite import check_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("cpu", "cuda", "xpu")
# What a folder or a hub id that is not what it should be raises inside transformers, safetensors and huggingface_hub.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)
TOKENIZER_FILES = ("*token*", "vocab*", "*.spm", "*.model")
MODEL_FILES = (
    "*.safetensors",
    "*.bin",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
)

Tokenizer: TypeAlias = PreTrainedTokenizerBase


def load_model(
    name: str | Path, *, dtype: str = "float32", device: str = "cpu", role: str = "model"
) -> PreTrainedModel:
    """Return the sequence-to-sequence or causal model that stands in a folder or on the Hub, in eval mode.

    Args:
        name: a folder made by `save_pretrained`, or a hub id.
        dtype: `float32`, `bfloat16` or `float16`.
        device: `cpu`, `cuda`, `cuda:1`, ...
        role: the word for this model in an error (`student`, `teacher`).

    Raises:
        WheelsError: no such folder, not a language model, weights that are missing or damaged, or no such device.
    """
    torch_dtype = DTYPES[check_choice("dtype", dtype, DTYPES)]
    place = check_device(device)
    # With `output_loading_info` what `from_pretrained` returns is a tuple, which its type does not say.
    kind: Any = AutoModelForSeq2SeqLM if load_config(name, role=role).is_encoder_decoder else AutoModelForCausalLM
    try:
        with quiet_loading():
            model, info = kind.from_pretrained(name, dtype=torch_dtype, output_loading_info=True)
    except Exception as error:
        if isinstance(error, LOADING_ERRORS) or type(error).__module__.startswith("safetensors"):
            raise WheelsError(f"cannot load the {role} {str(name)!r}: {first_line(error)}") from error
        raise
    if info["missing_keys"]:
        example = sorted(info["missing_keys"])[0]
        raise WheelsError(f"{role} {str(name)!r} lacks {len(info['missing_keys'])} weights, such as {example!r}")
    loaded: PreTrainedModel = model.to(place).eval()
    return loaded


def load_config(name: str | Path, *, role: str = "model") -> PreTrainedConfig:
    """Return the configuration of a model in a folder or on the Hub.

    Raises:
        WheelsError: where there is none, or transformers does not know the type.
    """
    check_place(name, role)
    try:
        return AutoConfig.from_pretrained(name)
    except LOADING_ERRORS as error:
        raise WheelsError(f"cannot load the {role} {str(name)!r}: {first_line(error)}") from error


def load_tokenizer(name: str | Path, *, role: str = "model") -> Tokenizer:
    """Return the tokenizer that stands beside a model.

    Raises:
        WheelsError: where there is none, or it cannot be read.
    """
    check_place(name, role)
    if Path(name).is_dir() and not any(any(Path(name).glob(f)) for f in TOKENIZER_FILES):
        raise WheelsError(f"{role} {str(name)!r} has no tokenizer beside it; save one there with save_pretrained")
    try:
        return AutoTokenizer.from_pretrained(name)
    except LOADING_ERRORS as error:
        raise WheelsError(f"cannot load the tokenizer of the {role} {str(name)!r}: {first_line(error)}") from error


def check_place(name: str | Path, role: str) -> None:
    """Raise a `WheelsError` where `name` can be neither a model's folder nor a hub id.

    A name is taken for a hub id (`name` or `owner/name`) only where no such path exists and the Hub may be asked.
    """
    path = Path(name)
    advice = "give a folder made by save_pretrained, or a hub id such as owner/name"
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise WheelsError(f"{role} folder {str(name)!r} has no config.json; {advice}")
        return
    if path.exists():
        raise WheelsError(f"{role} {str(name)!r} is a file; {advice}")
    text = str(name)
    if not text or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise WheelsError(f"no {role} folder {text!r}; {advice}")
    if offline() and not is_cached(text):
        raise WheelsError(f"no {role} folder {text!r}, and the Hub is off (HF_HUB_OFFLINE=1); {advice}")


def offline() -> bool:
    """Whether the environment forbids asking the Hub."""
    flags = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(flag.upper() in {"1", "ON", "YES", "TRUE"} for flag in flags)


def is_cached(hub_id: str) -> bool:
    """Whether the configuration of `hub_id` stands in the local cache of the Hub."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
    except ValueError:
        return False


def check_device(device: str) -> torch.device:
    """Return the torch device of that name.

    Raises:
        WheelsError: for a name torch does not know, or a device this machine does not have.
    """
    try:
        place = torch.device(device)
    except RuntimeError:
        raise WheelsError(f"device must be one of {', '.join(DEVICES)} (or cuda:1, ...), got {device!r}") from None
    if place.type == "cuda" and (not torch.cuda.is_available() or (place.index or 0) >= torch.cuda.device_count()):
        raise WheelsError(
            f"device {device!r} is not on this machine, which has {torch.cuda.device_count()} GPUs; use cpu"
        )
    return place


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, folder: str | Path) -> Path:
    """Save a model and its tokenizer as a plain `save_pretrained` folder, each file whole or absent.

    Other files that stand in `folder` are left alone.

    Raises:
        WheelsError: where the place cannot be written, or a weight is no finite number.
    """
    folder = Path(folder)
    check_weights(model, f"the model for {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving.") as temporary, quiet_loading():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            # The configuration last: a folder that has it has everything.
            for file in sorted(Path(temporary).iterdir(), key=lambda file: (file.name == "config.json", file.name)):
                with file.open("rb") as made, open_output(folder / file.name) as place:
                    shutil.copyfileobj(made, place)
    except OSError as error:
        raise WheelsError(f"cannot write {folder}: {error.strerror or error}; choose another place") from error
    return folder


def model_digest(name: str | Path) -> str:
    """Return 16 hex digits that name what decides a model's outputs; for a hub id, the id itself.

    In a folder that is its weights, its configurations and its tokenizer.
    """
    folder = Path(name)
    if not folder.is_dir():
        return str(name)
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if any(file.match(pattern) for pattern in (*TOKENIZER_FILES, *MODEL_FILES)):
            digest.update(file.name.encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hold back the bars and reports of transformers while it reads and writes weights: `load_model` checks them."""
    shown, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if shown:
            hf_logging.enable_progress_bar()
