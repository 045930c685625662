"""Tasks: rows of a source and a target, from files, from the Hub, or the embedded corpus."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter

from wheels.data import corpus
from wheels.data.conversations import Conversation
from wheels.data.formats import check_limit
from wheels.data.hub import HUB
from wheels.data.rows import Columns, Row, load_rows, rows_of
from wheels.data.splits import ONLY, SPLITS, open_splits
from wheels.errors import WheelsError, check_choice

__all__ = ["ONLY", "SPLITS", "Row", "Task", "load_rows", "load_task"]

TRANSLATION_METRICS = ("bleu", "chrf")
MOST_TEMPLATE = 10_000
"""Characters of a prompt's template."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Rows, with the prompt and the metrics to train and score on them.

    Attributes:
        name: as used in signatures.
        splits: the rows of "train", "validation" and "test", as many of them as there are; or `ONLY`, from one file.
        prompt: what a causal model reads; `{source}` is replaced by the source.
        metrics: names of `wheels.metrics.METRICS`, or places of the user's own; the first is the quality on a curve.
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
        from wheels.metrics import METRICS, find_metric

        check_prompt(self.prompt)
        if not self.metrics:
            raise WheelsError(f"metrics must name at least one of {', '.join(METRICS)}, got none")
        object.__setattr__(self, "metrics", tuple(map(find_metric, self.metrics)))
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
            slices = f"make one of another ({self.name}?{split}=train[:10%], and so on for each split)"
            advice = slices if self.name.startswith(HUB) else f"add {split}.jsonl"
            raise WheelsError(f"{self.name} has no {split} split, only: {have}; {advice}")
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
    def holds_conversations(self) -> bool:
        """Whether its rows are conversations, as the first row of each split shows."""
        first = (row for rows in self.splits.values() for row in rows[:1])
        return any(isinstance(row.source, Conversation) for row in first)

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
            total.update(json.dumps([split, row.source, row.target, *row.references]).encode())
    return total.hexdigest()[:16]


def load_task(
    spec: str | Path,
    *,
    source: str = "source",
    target: str = "target",
    references: str | None = None,
    rationale: str | None = None,
    prompt: str | None = None,
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    require_target: bool = True,
    bad_rows: str = "stop",
) -> Task:
    """Return the task that `spec` names.

    Args:
        spec: "embedded-translation"; a folder with train, validation and test
            files (of any of the formats of `wheels.data.formats`; some may be missing), or that `save_to_disk` of
            `datasets` wrote; one such file, which is then every split; or
            `hub:NAME[:CONFIGURATION][@REVISION][?SPLIT=SLICE&...]`, a data set that `datasets.load_dataset` can load,
            by its name or its folder.
        source: the column of the source, in files and on the Hub.
        target: the column of the target.
        references: the column of further references; None: `references`, where there is one.
        rationale: the column of the rationale.
        prompt: template for causal models, "{source}" where none is given.
        metrics: their names; BLEU and chrF where none are given.
        limit: the most rows of each split.
        require_target: whether a row of a file without a target is an error.
        bad_rows: `stop` where a row of a file does not fit, or `skip` such rows, and say how many there are.

    Raises:
        WheelsError: where nothing of that name is there, or a row is bad.
    """
    check_limit(limit)
    spec, columns = str(spec), Columns(source, target, references, rationale, require_target)
    if spec.startswith("embedded-"):
        name, splits = _embedded(spec, limit)
    else:
        name, found = open_splits(spec, columns.names, limit, columns.source)
        splits = {split: rows_of(place, records, columns, bad_rows) for split, (place, records) in found.items()}
    return Task(name, splits, prompt or "{source}", tuple(metrics) if metrics is not None else TRANSLATION_METRICS)


def _embedded(spec: str, limit: int | None) -> tuple[str, dict[str, list[Row]]]:
    """Return the name and the splits of the embedded corpus."""
    name = corpus.check_name(spec)
    return name, {split: [Row(*pair) for pair in pairs[:limit]] for split, pairs in corpus.read().items()}
