"""Data sets that the library `datasets` loads: of the Hub, of a folder, or saved to disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wheels.data.columnar import roots
from wheels.data.lines import Records
from wheels.errors import WheelsError, check_choice

HUB = "hub:"
"""How the name of such a data set begins."""
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""The splits, and what they are called in files and data sets; the first name that is there counts."""
SAVED = ("dataset_dict.json", "state.json")
"""The files by which a folder of `save_to_disk` is known: of all splits, or of one alone."""

Splits = dict[str, tuple[str, Records]]
"""The rows of each split, with the split's name in messages."""


@dataclass(frozen=True)
class HubName:
    """What `hub:NAME[:CONFIGURATION][@REVISION][?SPLIT=SLICE&...]` says."""

    name: str
    """`owner/name`, or a folder."""
    config: str | None = None
    """The configuration, also called subset."""
    revision: str | None = None
    """A branch, a tag or a commit."""
    slices: Mapping[str, str] = field(default_factory=dict)
    """What each split is made of, as `load_dataset(split=...)` takes it, such as `train[:90%]`; else as they are."""

    @classmethod
    def parse(cls, spec: str) -> HubName:
        """Read a name that begins with `hub:`.

        Raises:
            WheelsError: for no name, a folder with a revision, or a split that is none.
        """
        from urllib.parse import parse_qsl  # on demand: `--help` runs without

        place, _, query = spec.removeprefix(HUB).partition("?")
        slices = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
        if query and not all(slices.values()):
            raise WheelsError(
                f"{spec}: write ?SPLIT=SLICE&SPLIT=SLICE, such as ?train=train[:90%]&validation=train[90%:]"
            )
        for split in slices:
            check_choice(f"{spec}: split", split, SPLIT_NAMES)
        if place and Path(place).is_dir():
            return cls(place, slices=slices)
        place, _, revision = place.partition("@")
        name, _, config = place.partition(":")
        if not name:
            raise WheelsError(
                f"{spec!r} names no data set; write hub:NAME, hub:NAME:CONFIGURATION or hub:NAME@REVISION"
            )
        if ":" in revision:
            raise WheelsError(f"{spec}: the configuration stands before the revision: hub:NAME:CONFIGURATION@REVISION")
        if revision and Path(name).is_dir():
            raise WheelsError(f"{spec}: {name} is a folder, which has no revisions; leave out @{revision}")
        return cls(name, config or None, revision or None, slices)


def hub_splits(spec: str, wanted: Sequence[str] | None, limit: int | None) -> Splits:
    """Return the splits of a data set of the Hub, or of a folder as a repository of the Hub is laid out.

    Args:
        spec: see `HubName`.
        wanted: the columns that are needed; dots reach nested ones. All of them, where this is None or one is missing.
        limit: the most rows of each split.

    Raises:
        WheelsError: where it cannot be loaded, or has none of the splits.
    """
    named = HubName.parse(spec)

    def load(split: str | None = None) -> Any:
        import datasets

        return datasets.load_dataset(named.name, named.config, revision=named.revision, split=split)

    if named.slices:
        parts = {split: _loaded(f"{spec}: {split}", load, part) for split, part in named.slices.items()}
        return {split: _part(f"{spec}: {split}", part, wanted, limit) for split, part in parts.items()}
    return _known(spec, _loaded(spec, load), wanted, limit)


def saved_splits(folder: Path, wanted: Sequence[str] | None, limit: int | None) -> Splits:
    """Return the splits of a folder that `save_to_disk` of `datasets` wrote; one data set alone is named ""."""

    def load() -> Any:
        import datasets

        return datasets.load_from_disk(str(folder))

    loaded = _loaded(str(folder), load)
    if isinstance(loaded, Mapping):
        return _known(str(folder), loaded, wanted, limit)
    return {"": _part(str(folder), loaded, wanted, limit)}


def _loaded(spec: str, load: Callable[..., Any], *arguments: str) -> Any:
    try:
        return load(*arguments)
    except Exception as error:  # whatever the Hub, the network or the data set's builder raises
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise WheelsError(f"{spec}: cannot be loaded: {reason}") from error


def _known(spec: str, loaded: Mapping[str, Any], wanted: Sequence[str] | None, limit: int | None) -> Splits:
    """Return those of a data set's splits that have one of our names."""
    splits = {}
    for split, names in SPLIT_NAMES.items():
        if theirs := next((name for name in names if name in loaded), None):
            splits[split] = _part(f"{spec}: {theirs}", loaded[theirs], wanted, limit)
    if not splits:
        have, first = ", ".join(map(str, loaded)) or "none", next(iter(loaded), "SPLIT")
        raise WheelsError(
            f"{spec}: no rows in train, validation or test; the splits are: {have}; name one so: {spec}?test={first}"
        )
    return splits


def _part(name: str, data: Any, wanted: Sequence[str] | None, limit: int | None) -> tuple[str, Records]:
    """Return the rows of one split with their columns."""
    if not len(data):
        raise WheelsError(f"{name}: there are no rows")
    data = data.select(range(min(limit or len(data), len(data)))).select_columns(roots(data.column_names, wanted))
    return name, ((f"{name} row {number}", record) for number, record in enumerate(data, 1))
