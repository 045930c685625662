"""`wheels models --check`: which models are decoded exactly, by what, and which are refused and why."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from wheels.config.parsing import versions
from wheels.decoding.compatibility.check import BATCHES, TOKENS, Checked, check_family, check_folder
from wheels.decoding.compatibility.config import ALL, ModelsConfig
from wheels.decoding.compatibility.listed import FAMILIES
from wheels.errors import WheelsError
from wheels.files import write_json
from wheels.models.loading import quiet_loading
from wheels.output.tables import Column, Table
from wheels.threads import set_threads


def run(config: ModelsConfig) -> list[Checked]:
    """Check what `config` names; print a table, and write the result where it says.

    Raises:
        WheelsError: for a name that is no family and no folder, or where a text differs from the model's own.
    """
    if config.threads:
        set_threads(config.threads)
    names = [name for each in config.check for name in (FAMILIES if each == ALL else [each])]
    with quiet_loading():
        progress = tqdm(names, disable=not sys.stderr.isatty(), leave=False)
        place = {"device": config.device, "dtype": config.dtype}
        found = [(check_folder if is_place(name) else check_family)(name, **place) for name in progress]
    print(as_text(found))
    if config.output is not None:
        write_json(config.output, summary(found))
    if wrong := [each.name for each in found if each.refused is None and not each.exact]:
        raise WheelsError(f"not the texts of their own generate: {', '.join(wrong)}; decode these with transformers")
    return found


def is_place(name: str) -> bool:
    """Tell a folder or a hub id from a family: families have no slash, and are no folders."""
    return "/" in name or Path(name).is_dir()


def summary(found: Sequence[Checked]) -> dict[str, object]:
    """Return the result as a file holds it."""
    families = [{**asdict(each), "exact": each.exact} for each in found]
    return {"versions": versions(), "tokens": TOKENS, "families": families}


def as_text(found: Sequence[Checked]) -> str:
    """Return a table of what is decoded, and a line for each that is refused."""
    decoded = [each for each in found if each.refused is None]
    refused = [f"{each.name} is refused: {each.refused}" for each in found if each.refused is not None]
    columns = [
        Column("model", "name"),
        Column("kind"),
        Column("path"),
        Column("window"),
        *(Column(f"batch {batch}", partial(equal_texts, batch)) for batch in BATCHES),
    ]
    return "\n".join([*([Table.of(columns, decoded).text()] if decoded else []), *refused])


def equal_texts(batch: int, checked: Checked) -> str:
    """Return how many texts of a batch size equal those of `generate`."""
    return f"{checked.equal[str(batch)]}/{checked.texts}"
