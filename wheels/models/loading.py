"""Models and tokenizers from folders or the Hub, with actionable errors."""

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

from wheels.errors import WheelsError, check_choice, is_of_machine
from wheels.files import open_output, read_json
from wheels.finite import check_weights, not_finite

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("cpu", "cuda", "xpu", "mps")
# What a folder or a hub id that is not what it should be raises inside transformers, safetensors and huggingface_hub.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)
NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""Without it transformers asks on the terminal whether to run a folder's code, and takes a `y` from a pipe."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".npz", ".npy")
"""Ends of files with weights that are no safetensors."""
ATTENTION = ("sdpa", "eager")
"""Implementations of attention that come with transformers and read a mask for each row."""
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
    """Return the sequence-to-sequence or causal model of a folder or the Hub, in eval mode.

    Args:
        name: a folder made by `save_pretrained`, or a hub id.
        dtype: `float32`, `bfloat16` or `float16`.
        device: `cpu`, `cuda`, `cuda:1`, ...
        role: the word for this model in an error (`student`, `teacher`).

    Raises:
        WheelsError: no such folder, not a language model, weights that are missing, damaged, no numbers or a pickle, or
            no such device.
    """
    torch_dtype = DTYPES[check_choice("dtype", dtype, DTYPES)]
    place = check_device(device)
    # With `output_loading_info` what `from_pretrained` returns is a tuple, which its type does not say.
    kind: Any = AutoModelForSeq2SeqLM if load_config(name, role=role).is_encoder_decoder else AutoModelForCausalLM
    with _load_errors(f"the {role} {str(name)!r}"), quiet_loading():
        _check_weights_file(Path(name), role)
        model, info = kind.from_pretrained(
            name, dtype=torch_dtype, output_loading_info=True, use_safetensors=True, **NO_CODE
        )
    if info["missing_keys"]:
        example = sorted(info["missing_keys"])[0]
        raise WheelsError(f"{role} {str(name)!r} lacks {len(info['missing_keys'])} weights, such as {example!r}")
    if (bad := not_finite(model)) is not None:
        raise WheelsError(
            f"{role} {str(name)!r} has weights that are no finite numbers ({dtype}), first in {bad!r}: its training "
            "went wrong, or the number format is too narrow; give another model, or another dtype"
        )
    loaded: PreTrainedModel = model.to(place).eval()
    return loaded


def _check_weights_file(folder: Path, role: str) -> None:
    """Raise a `WheelsError` where a model's folder has no weights, or only a file that could run code."""
    if not folder.is_dir() or (folder / "model.safetensors").is_file():
        return
    index = folder / "model.safetensors.index.json"
    shards = read_json(index)["weight_map"].values() if index.is_file() else ()
    pickles = sorted({str(name) for name in shards if not str(name).endswith(".safetensors")})
    if not shards:
        found = (file.name for file in folder.iterdir() if file.suffix in PICKLES)
        pickles = sorted(found, key=lambda name: ("model" not in name, name))
    if pickles:
        raise WheelsError(
            f"{role} {str(folder)!r} holds its weights in {pickles[0]}, a format that can run code when it is read; "
            "save it as model.safetensors (save_pretrained of transformers 5 does)"
        )
    if not shards:
        what = (
            "an adapter alone; merge it into its model" if (folder / "adapter_config.json").is_file() else "no weights"
        )
        raise WheelsError(f"cannot load the {role} {str(folder)!r}: no model.safetensors there, but {what}")


@contextmanager
def _load_errors(what: str) -> Iterator[None]:
    """Raise the libraries' loading errors as a `WheelsError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, WheelsError) or is_of_machine(error):
            raise
        if "contains custom code" in str(error) or "custom code contained in" in str(error):
            raise WheelsError(
                f"cannot load {what}: it needs code of its own (auto_map in its configuration), which is never run; "
                "give a model of a family that transformers knows"
            ) from error
        if isinstance(error, LOADING_ERRORS) or type(error).__module__.startswith("safetensors"):
            raise WheelsError(f"cannot load {what}: {first_line(error)}") from error
        raise


def load_config(name: str | Path, *, role: str = "model") -> PreTrainedConfig:
    """Return the configuration of a model in a folder or on the Hub.

    Raises:
        WheelsError: where there is none, or transformers does not know the type.
    """
    check_place(name, role)
    with _load_errors(f"the {role} {str(name)!r}"):
        config = AutoConfig.from_pretrained(name, **NO_CODE)
    # Any other name may be that of a repository, whose kernels transformers would fetch and run.
    for part in (config, *(getattr(config, sub, None) for sub in config.sub_configs)):
        if (attention := getattr(part, "_attn_implementation", None)) not in (None, *ATTENTION):
            raise WheelsError(
                f"the configuration of {role} {str(name)!r} asks for attention {attention!r}; allowed: "
                f"{', '.join(ATTENTION)}; leave attn_implementation out"
            )
    return config


def load_tokenizer(name: str | Path, *, role: str = "model") -> Tokenizer:
    """Return the tokenizer of a model's folder.

    Raises:
        WheelsError: where there is none, or it cannot be read.
    """
    check_place(name, role)
    if Path(name).is_dir() and not any(any(Path(name).glob(f)) for f in TOKENIZER_FILES):
        raise WheelsError(f"{role} {str(name)!r} has no tokenizer beside it; save one there with save_pretrained")
    with _load_errors(f"the tokenizer of the {role} {str(name)!r}"):
        return AutoTokenizer.from_pretrained(name, **NO_CODE)


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
    """Whether the configuration of `hub_id` is in the local cache of the Hub."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
    except ValueError:
        return False


def check_device(device: str | torch.device) -> torch.device:
    """Return the torch device of that name.

    Raises:
        WheelsError: for a name torch does not know, or a device this machine does not have.
    """
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    if place is None or place.type not in DEVICES:
        raise WheelsError(f"device must be one of {', '.join(DEVICES)} (or cuda:1, ...), got {device!r}")
    if place.type == "cpu":
        return place
    module = torch.get_device_module(place)
    count = module.device_count() if module.is_available() else 0
    if (place.index or 0) >= count:
        kind = "GPUs" if place.type == "cuda" else f"{place.type} devices"
        raise WheelsError(f"device {str(device)!r} is not on this machine, which has {count} {kind}; use cpu")
    return place


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, folder: str | Path) -> Path:
    """Save a model and its tokenizer as a plain `save_pretrained` folder, each file atomically.

    Other files in `folder` are left alone.

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
    """Return 16 hex digits of everything that determines a model's outputs; for a hub id, the id itself.

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
    """Silence the progress bars and reports of transformers while it reads and writes weights."""
    shown, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if shown:
            hf_logging.enable_progress_bar()
