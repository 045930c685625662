"""The splits of a data set: of a file, a folder of files, a folder of `datasets`, or the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wheels.data import corpus
from wheels.data.formats import ENDINGS, TEXT_ENDINGS, read_records, stem_of
from wheels.data.hub import HUB, SAVED, SPLIT_NAMES, Splits, hub_splits, saved_splits
from wheels.data.lines import Records
from wheels.errors import WheelsError, did_you_mean

SPLITS = tuple(SPLIT_NAMES)
ONLY = "all"
"""The one split of a task that was loaded from a single file."""


def open_splits(
    spec: str, wanted: Sequence[str] | None = None, limit: int | None = None, line: str = "source"
) -> tuple[str, Splits]:
    """Return the name of a data set, and the rows of each of its splits, which are read as they are asked for.

    Args:
        spec: a file, a folder, or `hub:...`; see `wheels.data.load_task`.
        wanted: the columns that are needed; dots reach nested ones. All of them, where this is None.
        limit: the most rows of each split.
        line: the column that a line of plain text stands for.

    Raises:
        WheelsError: where there is nothing of that name.
    """
    if spec.startswith(HUB):
        return spec, hub_splits(spec, wanted, limit)
    path = Path(spec)

    def part(file: Path) -> tuple[str, Records]:
        return str(file), read_records(file, limit, wanted=wanted, line=line)

    if not path.is_dir():
        if not path.exists():
            hint = did_you_mean(spec, [corpus.EMBEDDED])
            raise WheelsError(f"{path}: no such file or folder (the embedded corpus is {corpus.EMBEDDED}){hint}")
        stem = stem_of(path.name)
        # `test` alone says nothing in a signature; its folder says which.
        is_split = any(stem in names for names in SPLIT_NAMES.values())
        return f"{path.resolve().parent.name}/{stem}" if is_split else stem, {ONLY: part(path)}
    name = path.resolve().name
    if any((path / file).is_file() for file in SAVED):
        return name, {split or ONLY: found for split, found in saved_splits(path, wanted, limit).items()}
    files = {split: file for split in SPLITS if (file := split_file(path, split))}
    if not files:
        raise WheelsError(
            f"{path}: none of train, validation and test ({', '.join(ENDINGS)}) is in this folder; give {HUB}{path} "
            "where it is laid out as a repository of the Hub"
        )
    return name, {split: part(file) for split, file in files.items()}


def split_file(folder: Path, split: str) -> Path | None:
    """Return the file of a split in a folder, or None.

    Raises:
        WheelsError: where there are several.
    """
    endings = [*ENDINGS, *(f"{ending}.gz" for ending in TEXT_ENDINGS)]
    names = {f"{name}{ending}" for name in SPLIT_NAMES[split] for ending in endings}
    files = sorted(file for file in folder.iterdir() if file.name in names)
    if len(files) > 1:
        raise WheelsError(f"{folder}: both {files[0].name} and {files[1].name} are there; remove one")
    return files[0] if files else None
