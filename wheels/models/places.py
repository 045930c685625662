"""Where a model stands: a folder, a repository of the Hub at a revision, an adapter beside its model, a GGUF file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wheels.errors import WheelsError
from wheels.files import read_object

ADVICE = "give a folder made by save_pretrained, or a hub id such as owner/name or owner/name@revision"
ADAPTER = "adapter_config.json"
GGUF = ".gguf"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
"""Files of a repository that are read, in this order; weights may stand in several files instead, by an index."""


@dataclass(frozen=True)
class Place:
    """What a name means."""

    name: str
    """A folder, or a repository `name` or `owner/name`."""
    revision: str | None = None
    """A branch, tag or commit of the repository."""
    gguf: str | None = None
    """The file in it that holds everything: weights, configuration and tokenizer."""
    base: str | None = None
    """Of an adapter: the name of the model that it changes."""

    @property
    def is_folder(self) -> bool:
        """Whether it is on this machine."""
        return Path(self.name).is_dir()

    @property
    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` takes beside the name."""
        told = {"revision": self.revision, "gguf_file": self.gguf}
        return {name: value for name, value in told.items() if value is not None}


def place_of(name: str | Path, role: str = "model") -> Place:
    """Return what a name means.

    A name is taken for a hub id (`name`, `owner/name`, with `@revision`) only where no such path exists and the Hub may
    be asked; `owner/name/file.gguf` is a file of a repository.

    Raises:
        WheelsError: where it can be neither a model's folder nor a hub id.
    """
    path, text = Path(name), str(name)
    if path.is_dir():
        if (path / ADAPTER).is_file() and not (path / "config.json").is_file():
            return Place(text, base=_base_of(path / ADAPTER, role))
        if (path / "config.json").is_file():
            return Place(text)
        files = sorted(path.glob(f"*{GGUF}"))
        if len(files) > 1:
            found = ", ".join(file.name for file in files)
            raise WheelsError(f"{role} folder {text!r} has {len(files)} .gguf files; name one of them: {found}")
        if not files:
            raise WheelsError(f"{role} folder {text!r} has no config.json; {ADVICE}")
        return Place(text, gguf=files[0].name)
    if path.is_file() and path.suffix == GGUF:
        return Place(str(path.parent), gguf=path.name)
    if path.exists():
        raise WheelsError(f"{role} {text!r} is a file; {ADVICE}, or a .gguf file")
    hub_id, _, revision = text.partition("@")
    owner, _, file = hub_id.rpartition("/")
    gguf = file if file.endswith(GGUF) and owner.count("/") == 1 else None
    hub_id = owner if gguf else hub_id
    if not hub_id or text.startswith((".", "/", "~")) or hub_id.count("/") > 1 or file.endswith(GGUF) != bool(gguf):
        raise WheelsError(f"no {role} folder {text!r}; {ADVICE}")
    place = Place(hub_id, revision or None, gguf)
    if offline() and not is_cached(place, gguf or "config.json"):
        raise WheelsError(
            f"no {role} folder {text!r}, and the Hub is off (HF_HUB_OFFLINE=1) with no {gguf or 'config.json'} of "
            f"{hub_id!r} in its cache; {ADVICE}"
        )
    return place


def check_place(name: str | Path, role: str) -> None:
    """Raise a `WheelsError` where `name` can be neither a model's folder nor a hub id."""
    place_of(name, role)


def _base_of(file: Path, role: str) -> str:
    """Return the name of the model that an adapter changes; a relative folder is seen from the adapter's."""
    base = read_object(file).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise WheelsError(f"{role} adapter {str(file.parent)!r} does not say its model (base_model_name_or_path)")
    beside = file.parent / base
    return str(beside) if beside.is_dir() else base


def offline() -> bool:
    """Whether the environment forbids asking the Hub."""
    flags = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(flag.upper() in {"1", "ON", "YES", "TRUE"} for flag in flags)


def cached_file(place: Place, file: str) -> str | None:
    """Return where a file of a repository is in the local cache of the Hub; None where it is not."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(place.name, file, revision=place.revision)
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def is_cached(place: Place, file: str) -> bool:
    """Whether a file of a repository is in the local cache of the Hub."""
    return cached_file(place, file) is not None


def missing_file(place: Place) -> str | None:
    """Return the first file of a repository that is not in the local cache; None for a folder, or where all are."""
    if place.is_folder:
        return None
    wanted = (place.gguf,) if place.gguf else NEEDED
    present = (name for name in wanted if not is_cached(place, name))
    split = is_cached(place, "model.safetensors.index.json")
    return next((name for name in present if not (split and name == "model.safetensors")), None)
