"""Models and tokenizers from folders or the Hub, with actionable errors."""

from __future__ import annotations

import copy
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

from wheels.config.fields import ATTENTION
from wheels.errors import WheelsError, check_choice, is_of_machine
from wheels.files import open_output, read_json, room
from wheels.finite import check_weights, not_finite
from wheels.models.adapters import merged
from wheels.models.devices import Devices, computing_device, is_spread
from wheels.models.in_file import described, stays_in_file
from wheels.models.places import Place, missing_file, offline, place_of
from wheels.models.quantization import check_blocks, quantization_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What a folder or a hub id that is not what it should be raises inside transformers, safetensors and huggingface_hub.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)
AUTO = "auto"
"""The number format that a model is stored in."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".npz", ".npy")
"""Ends of files with weights that are no safetensors."""
TOKENIZER_FILES = ("*token*", "vocab*", "*.spm", "*.model")
MODEL_FILES = (
    "*.safetensors",
    "*.bin",
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
)

Tokenizer: TypeAlias = PreTrainedTokenizerBase


@dataclass(frozen=True)
class Settings:
    """How models are loaded in this process, beside what each is asked for (`set_loading`)."""

    attn_implementation: str | None = None
    """`sdpa` or `eager`; None: what the family has."""
    trust_remote_code: bool = False
    """Whether code of a model's folder or repository is run."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` takes: without an answer it asks on the terminal, and takes one from a pipe."""
        return {"trust_remote_code": self.trust_remote_code}


_settings = Settings()


def set_loading(*, attn_implementation: str | None = None, trust_remote_code: bool = False) -> None:
    """Choose how models are loaded from now on in this process.

    Args:
        attn_implementation: `sdpa` or `eager`; None: what the family has.
        trust_remote_code: Whether code of a model's folder or repository is run. It can do what you can.

    Raises:
        WheelsError: for another implementation of attention.
    """
    global _settings
    if attn_implementation is not None:
        check_choice("attn_implementation", attn_implementation, ATTENTION)
    _settings = Settings(attn_implementation, trust_remote_code)


def load_model(
    name: str | Path,
    *,
    dtype: str = "float32",
    device: Devices = "cpu",
    quantization: str | None = None,
    role: str = "model",
) -> PreTrainedModel:
    """Return the sequence-to-sequence or causal model of a folder or the Hub, in eval mode.

    Args:
        name: a folder made by `save_pretrained`, a hub id, a GGUF file, or the folder of an adapter, which is merged.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: what the model is stored in (`dtype_of`).
        device: `cpu`, `cuda`, `cuda:1`, ...; or several (`Devices`).
        quantization: `int8` or `int4`, what its weights are rounded to; None: what it is stored in.
        role: the word for this model in an error (`student`, `teacher`).

    Raises:
        WheelsError: no such folder, not a language model, weights that are missing, damaged, no numbers or a pickle, or
            no such device.
    """
    check_choice("dtype", dtype, (*DTYPES, AUTO))
    on_device = computing_device(device)
    place, config, what = place_of(name, role), load_config(name, role=role), f"{role} {str(name)!r}"
    stored = place.gguf is None and getattr(config, "quantization_config", None) is not None
    if quantization is not None or is_spread(device):
        _check_plain(place, what, stored and quantization is not None)
    if stays_in_file(place):
        return described(place, config)
    torch_dtype = dtype_of(config, on_device) if dtype == AUTO else DTYPES[dtype]
    arguments: dict[str, Any] = {}
    if quantization is not None:
        arguments["quantization_config"] = quantization_config(quantization, torch_dtype, what)
    if quantization is not None or stored or is_spread(device):
        # Other libraries round weights, and read rounded ones, where these are going to be.
        arguments["device_map"] = device if is_spread(device) else {"": on_device}
    model = _read_weights(place, config, torch_dtype, what, role, arguments)
    if (bad := not_finite(model)) is not None:
        narrow = str(torch_dtype).removeprefix("torch.")
        raise WheelsError(
            f"{what} has weights that are no finite numbers ({narrow}), first in {bad!r}: its training "
            "went wrong, or the number format is too narrow; give another model, or another dtype"
        )
    if on_device.type == "cpu" and (stored or quantization is not None):
        check_blocks(model, what)
    placed: Any = model
    loaded: PreTrainedModel = (placed if "device_map" in arguments else placed.to(on_device)).eval()
    return loaded


def _check_plain(place: Place, what: str, rounded: bool) -> None:
    """Raise a `WheelsError` for what cannot be rounded, or read in parts: adapters, GGUF files, rounded weights."""
    if place.gguf is not None or place.base is not None:
        found = "an adapter" if place.base is not None else "a GGUF file"
        raise WheelsError(
            f"{what} is {found}, which is read as a whole; save the model that it makes with save_pretrained, and give "
            "that folder"
        )
    if rounded:
        raise WheelsError(
            f"{what} is stored with rounded weights (quantization_config); leave teacher_quantization out"
        )


def dtype_of(config: PreTrainedConfig, device: torch.device) -> torch.dtype:
    """Return the number format of `auto`: the one that a model is stored in, float32 where it says none.

    On a CPU float16 becomes float32: few processors compute in it.
    """
    said = config.dtype or config.get_text_config(decoder=True).dtype
    known = next((dtype for dtype in DTYPES.values() if dtype == said), torch.float32)
    return torch.float32 if known == torch.float16 and device.type == "cpu" else known


def _read_weights(
    place: Place, config: PreTrainedConfig, dtype: torch.dtype, what: str, role: str, arguments: dict[str, Any]
) -> PreTrainedModel:
    """Return the model of a place; that of an adapter is read first, and the adapter merged into it."""
    if place.base is not None:
        below, told = place_of(place.base, role), f"the model {place.base!r} of {what}"
        return merged(_read_weights(below, config, dtype, told, role, arguments), place, what)
    arguments = {**_settings.arguments, **place.arguments, **arguments}
    if _settings.attn_implementation is not None:
        arguments["attn_implementation"] = _settings.attn_implementation
    if place.gguf is None:
        arguments["use_safetensors"] = True
        _check_weights_file(Path(place.name), role)
    # With `output_loading_info` what `from_pretrained` returns is a tuple, which its type does not say.
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with _load_errors(f"the {what}", place), quiet_loading():
        model, info = kind.from_pretrained(place.name, dtype=dtype, output_loading_info=True, **arguments)
    if info["missing_keys"]:
        example = sorted(info["missing_keys"])[0]
        raise WheelsError(f"{what} lacks {len(info['missing_keys'])} weights, such as {example!r}")
    read: PreTrainedModel = model
    return read if place.gguf is None else _dequantised(read)


def _dequantised(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model of a GGUF file, which holds plain numbers by now, as one that can be trained and saved.

    transformers still calls it quantised, and then refuses both.
    """
    config = copy.deepcopy(model.config)
    del config.quantization_config
    made: Any = type(model)
    plain: PreTrainedModel = made(config).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


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
        raise WheelsError(f"cannot load the {role} {str(folder)!r}: no model.safetensors there")


@contextmanager
def _load_errors(what: str, place: Place) -> Iterator[None]:
    """Raise the libraries' loading errors as a `WheelsError`; of a repository with the file that is missing."""
    try:
        yield
    except Exception as error:
        if isinstance(error, WheelsError) or is_of_machine(error):
            raise
        if "contains custom code" in str(error) or "custom code contained in" in str(error):
            raise WheelsError(
                f"cannot load {what}: it needs code of its own (auto_map in its configuration), which is run only with "
                "--trust-remote-code; read it first, or give a model of a family that transformers knows"
            ) from error
        if isinstance(error, LOADING_ERRORS) or type(error).__module__.startswith("safetensors"):
            lacks = missing_file(place) if offline() else None
            told = f"{lacks} of {place.name!r} is not in the Hub's cache, and the Hub is off" if lacks else None
            raise WheelsError(f"cannot load {what}: {told or first_line(error)}") from error
        raise


def load_config(name: str | Path, *, role: str = "model") -> PreTrainedConfig:
    """Return the configuration of a model in a folder or on the Hub.

    Raises:
        WheelsError: where there is none, or transformers does not know the type.
    """
    place = place_of(name, role)
    if place.base is not None:
        return load_config(place.base, role=role)
    with _load_errors(f"the {role} {str(name)!r}", place):
        config = AutoConfig.from_pretrained(place.name, **_settings.arguments, **place.arguments)
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
    place = place_of(name, role)
    stands_here = any(any(Path(place.name).glob(pattern)) for pattern in TOKENIZER_FILES) or place.gguf is not None
    if place.base is not None and not stands_here:
        return load_tokenizer(place.base, role=role)
    if place.is_folder and not stands_here:
        raise WheelsError(f"{role} {str(name)!r} has no tokenizer beside it; save one there with save_pretrained")
    with _load_errors(f"the tokenizer of the {role} {str(name)!r}", place):
        return AutoTokenizer.from_pretrained(place.name, **_settings.arguments, **place.arguments)


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, folder: str | Path) -> Path:
    """Save a model and its tokenizer as a plain `save_pretrained` folder, each file atomically.

    Other files in `folder` are left alone. Of several processes that train one model the first saves it.

    Raises:
        WheelsError: where the place cannot be written, or a weight is no finite number.
    """
    folder = Path(folder)
    check_weights(model, f"the model for {folder}")
    weights = _gathered(model)
    if weights == {}:
        return folder
    needed = 2 * sum(weight.numel() * weight.element_size() for weight in model.parameters())  # the old files too
    try:
        folder.mkdir(parents=True, exist_ok=True)
        saving = tempfile.TemporaryDirectory(dir=folder, prefix=".saving.")
        with room(folder, needed), saving as temporary, quiet_loading():
            model.save_pretrained(temporary, state_dict=weights)
            tokenizer.save_pretrained(temporary)
            # The configuration last: a folder that has it has everything.
            for file in sorted(Path(temporary).iterdir(), key=lambda file: (file.name == "config.json", file.name)):
                with file.open("rb") as made, open_output(folder / file.name) as place:
                    shutil.copyfileobj(made, place)
    except OSError as error:
        raise WheelsError(f"cannot write {folder}: {error.strerror or error}; choose another place") from error
    return folder


def _gathered(model: PreTrainedModel) -> dict[str, Any] | None:
    """Return the whole weights that the first of several processes saves; in the others none.

    None: those of the model itself, which the process holds whole. FSDP2 has cut others into shards.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict  # on demand: 0.6 s
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(model, FSDPModule):
        return None if torch.distributed.get_rank() == 0 else {}
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def model_digest(name: str | Path) -> str:
    """Return 16 hex digits of everything that determines a model's outputs; for a hub id, the id itself.

    In a folder that is its weights, its configurations and its tokenizer.
    """
    folder = Path(name)
    if folder.is_file():
        return _file_digest(folder).hex()[:16]
    if not folder.is_dir():
        return str(name)
    digest = hashlib.sha256()
    if (base := place_of(name).base) is not None:
        digest.update(model_digest(base).encode())
    for file in sorted(folder.iterdir()):
        if any(file.match(pattern) for pattern in (*TOKENIZER_FILES, *MODEL_FILES)):
            digest.update(file.name.encode())
            digest.update(_file_digest(file))
    return digest.hexdigest()[:16]


def _file_digest(file: Path) -> bytes:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


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
