"""Tasks: rows of a source and a target, from files, from the Hub, or from the embedded corpora."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter

from wheels.data import corpora
from wheels.data.rows import Row, check_lengths, check_limit, load_rows, row_of
from wheels.errors import WheelsError, check_choice, did_you_mean

__all__ = ["ONLY", "SPLITS", "Row", "Task", "check_lengths", "load_rows", "load_task", "split_file"]

SPLITS = ("train", "validation", "test")
TRANSLATION_METRICS = ("bleu", "chrf")
SUMMARIZATION_METRICS = ("rougeL", "rouge1", "rouge2", "rougeLsum")
MOST_TEMPLATE = 10_000
"""Characters of a prompt's template."""
# The one split of a task that was loaded from a single file.
ONLY = "all"
_HUB = "hub:"
_HUB_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclasses.dataclass(frozen=True)
class Task:
    """Rows, with the prompt and the metrics to train and score on them.

    Attributes:
        name: as used in signatures.
        splits: the rows of "train", "validation" and "test", as many of them as there are; or `ONLY`, from one file.
        prompt: what a causal model reads; `{source}` is replaced by the source.
        metrics: names of `wheels.metrics.METRICS`; the first is the quality on a curve.
        digest: the first 16 hexadecimal digits of the SHA-256 of all rows; made from `splits` where "" is given.
    """

    name: str
    splits: Mapping[str, list[Row]]
    prompt: str = "{source}"
    metrics: tuple[str, ...] = TRANSLATION_METRICS
    digest: str = ""

    def __post_init__(self) -> None:
        """Check the prompt and the metrics, and digest the rows.

        Raises:
            WheelsError: where the prompt has no `{source}`, or a metric is unknown.
        """
        from wheels.metrics import METRICS

        check_prompt(self.prompt)
        if not self.metrics:
            raise WheelsError(f"metrics must name at least one of {', '.join(METRICS)}, got none")
        for metric in self.metrics:
            check_choice("metric", metric, METRICS)
        object.__setattr__(self, "digest", self.digest or digest(self.splits))

    def rows(self, split: str) -> list[Row]:
        """Return the rows of `split`; a task from a single file has the same rows for every split.

        Raises:
            WheelsError: where the split is unknown, or the task has no such split.
        """
        check_choice("split", split, (*SPLITS, ONLY))
        if ONLY in self.splits:
            return self.splits[ONLY]
        if split not in self.splits:
            have = ", ".join(name for name in SPLITS if name in self.splits)
            raise WheelsError(f"{self.name} has no {split} split, only: {have}; add {split}.jsonl")
        return self.splits[split]

    def check_splits(self, splits: Sequence[str]) -> None:
        """Refuse a task without separate splits: scores on the rows that were trained on mean nothing.

        Raises:
            WheelsError: where one is missing.
        """
        if ONLY in self.splits:
            raise WheelsError(f"{self.name} is one file; give a folder with {', '.join(splits)} rows of their own")
        for split in splits:
            self.rows(split)

    @property
    def train(self) -> list[Row]:
        """The rows to train on."""
        return self.rows("train")

    @property
    def validation(self) -> list[Row]:
        """The rows for model selection and calibration."""
        return self.rows("validation")

    @property
    def test(self) -> list[Row]:
        """The rows for reported scores."""
        return self.rows("test")


def check_prompt(prompt: str) -> str:
    """Return `prompt` if it has a placeholder for the source; see `check_template`."""
    return check_template("prompt", prompt, "source")


def check_template(name: str, template: str, *fields: str) -> str:
    """Return `template` if it holds each of `fields` in plain braces, and no other braces.

    What `str.format` knows besides is refused: widths, which fill the memory, and parts, such as `{source[0]}`.

    Raises:
        WheelsError: naming what it must contain, by the `name` of the setting.
    """
    try:
        parts = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:
        parts = []
    plain = all(field in fields and not spec and conversion is None for field, spec, conversion in parts)
    if not plain or {field for field, *_ in parts} != set(fields):
        wanted = " and ".join(f"{{{field}}}" for field in fields)
        raise WheelsError(f"{name} must contain {wanted} and no other braces (write {{{{ for one), got {template!r}")
    if len(template) > MOST_TEMPLATE:
        raise WheelsError(f"{name} must have at most {MOST_TEMPLATE:,} characters, got {len(template):,}")
    return template


def digest(splits: Mapping[str, Sequence[Row]]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 over all rows and the names of their splits."""
    total = hashlib.sha256()
    for split in sorted(splits):
        for row in splits[split]:
            total.update(json.dumps([split, row.source, row.target]).encode())
    return total.hexdigest()[:16]


def load_task(
    spec: str | Path,
    *,
    source: str = "source",
    target: str = "target",
    prompt: str | None = None,
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    require_target: bool = True,
) -> Task:
    """Return the task that `spec` names.

    Args:
        spec: "embedded-translation[:de-en]", "embedded-summarization[:en]"; a folder with train, validation and test
            files (.jsonl or .jsonl.gz; any of them may be missing); one such file, which is then every split; or
            "hub:NAME[:CONFIG]", a data set that `datasets.load_dataset` can load, by its name or its folder.
        source: the column of the source, in files and on the Hub.
        target: the column of the target.
        prompt: template for causal models, "{source}" where none is given.
        metrics: their names; BLEU and chrF where none are given, ROUGE for the summarization corpus.
        limit: the most rows of each split.
        seed: of an embedded corpus.
        require_target: whether a row of a file without a target is an error.

    Raises:
        WheelsError: where nothing of that name is there, or a row is bad.
    """
    check_limit(limit)
    spec = str(spec)
    default: tuple[str, ...] = TRANSLATION_METRICS
    if spec.startswith("embedded-"):
        name, splits, default = _embedded(spec, limit, seed)
    elif spec.startswith(_HUB):
        name, splits = spec, _hub(spec, source, target, limit, require_target)
    else:
        name, splits = _files(Path(spec), source, target, limit, require_target)
    return Task(name, splits, prompt or "{source}", tuple(metrics) if metrics is not None else default)


def _embedded(spec: str, limit: int | None, seed: int) -> tuple[str, dict[str, list[Row]], tuple[str, ...]]:
    """Return the name, the splits and the metrics of an embedded corpus."""
    name, locales = corpora.parse_name(spec)
    sizes = {split: min(size, limit or size) for split, size in corpora.SIZES.items()}
    built = corpora.build(spec, seed=seed, sizes=sizes)
    splits = {split: [Row(*pair) for pair in built[split]] for split in SPLITS}
    metrics = SUMMARIZATION_METRICS if name == corpora.SUMMARIZATION else TRANSLATION_METRICS
    return f"{name}:{'-'.join(locales)}", splits, metrics


def _files(
    path: Path, source: str, target: str, limit: int | None, require_target: bool
) -> tuple[str, dict[str, list[Row]]]:
    def load(file: Path) -> list[Row]:
        return load_rows(file, source=source, target=target, require_target=require_target, limit=limit)

    if not path.is_dir():
        if not path.exists():
            hint = did_you_mean(str(path), corpora.NAMES)
            known = ", ".join(corpora.NAMES)
            raise WheelsError(f"{path}: no such file or folder (and no embedded corpus: {known}){hint}")
        stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
        # `test` alone says nothing in a signature; its folder says which.
        name = f"{path.resolve().parent.name}/{stem}" if stem in SPLITS else stem
        return name, {ONLY: load(path)}
    found = {split: file for split in SPLITS if (file := split_file(path, split))}
    if not found:
        raise WheelsError(f"{path}: none of train, validation and test (.jsonl or .jsonl.gz) is in this folder")
    return path.resolve().name, {split: load(file) for split, file in found.items()}


def split_file(folder: Path, split: str) -> Path | None:
    """Return the file of a split in a folder, plain or compressed, or None.

    Raises:
        WheelsError: where both are there.
    """
    files = [file for suffix in (".jsonl", ".jsonl.gz") if (file := folder / f"{split}{suffix}").exists()]
    if len(files) > 1:
        raise WheelsError(f"{folder}: both {files[0].name} and {files[1].name} are there; remove one")
    return files[0] if files else None


def _hub(spec: str, source: str, target: str, limit: int | None, require_target: bool) -> dict[str, list[Row]]:
    import datasets

    name, _, config = spec.removeprefix(_HUB).partition(":")
    if not name:
        raise WheelsError(f"{spec!r} names no data set; write hub:NAME or hub:NAME:CONFIG")
    try:
        loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # whatever the Hub, the network or the data set's builder raises
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise WheelsError(f"{spec}: cannot be loaded: {reason}") from error
    splits = {}
    for split, names in _HUB_SPLITS.items():
        for theirs in names:
            if theirs in loaded:
                records = itertools.islice(loaded[theirs], limit)
                splits[split] = [
                    row_of(record, f"{spec}: {theirs} row {number}", source, target, require_target)
                    for number, record in enumerate(records, 1)
                ]
                break
    if not splits or not all(splits.values()):
        raise WheelsError(
            f"{spec}: no rows in train, validation or test; the splits are: {', '.join(map(str, loaded)) or 'none'}"
        )
    return splits
