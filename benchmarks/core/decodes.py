"""Decodes of the same rows in many ways, each kept as soon as it is done: a rerun repeats only what is missing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wheels import __version__
from wheels.benchmarks.core.cell import PointKey, Record, cached_records
from wheels.data.tasks import Task, load_task
from wheels.decoding.methods.method import Method
from wheels.decoding.methods.rule import AnyRule, Rule
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode
from wheels.models.artefact import Artefact
from wheels.models.pair import Pair
from wheels.output.notices import Pace

log = logging.getLogger("wheels")


@dataclass(frozen=True)
class Decode:
    """One way to decode the rows."""

    name: str
    method: Method
    params: DecodeParams
    made_from: Mapping[str, Any]
    """Everything that the outputs depend on: kept ones count only where it is the same."""


def scored_task(config: Any) -> Task:
    """Return the task that a benchmark's configuration names by `data`, `source`, `target` and `bad_rows`.

    Its metrics are the `metrics` of the configuration, or the task's own where it names none.

    Raises:
        WheelsError: as `load_task`.
    """
    columns = {name: getattr(config, name) for name in ("source", "target", "bad_rows")}
    return load_task(config.data, metrics=config.metrics or None, **columns)


def depends_on(
    config: Any, artefact: Artefact, rule: AnyRule | None, seed: int | None, data_digest: str, rows: int
) -> dict[str, Any]:
    """Return what the outputs of a decode depend on beside the models and the method's own settings.

    The batch size is below float32, where sums of another batch may round otherwise. Else rows do not touch each other.
    """
    facts: dict[str, Any] = {} if config.dtype == "float32" else {"batch_size": config.batch_size}
    if isinstance(rule, Rule) and rule.code:  # a rule of the user's own: the digest of its file
        facts["code"] = rule.code
    return facts | {
        "head": "" if rule is None or seed is None else artefact.head_digest(rule.name, seed),
        "threshold": getattr(rule, "threshold", None),
        "rule": None if rule is None else rule.name,
        "data": data_digest,
        "rows": rows,
        "max_new_tokens": config.max_new_tokens,
        "device": config.device,
        "dtype": config.dtype,
        "wheels": __version__,
    }


def decode_all(
    pair: Pair, sources: Sequence[str], decodes: Mapping[PointKey, Decode], folder: Path, batch_size: int
) -> dict[PointKey, list[Record]]:
    """Return the records of every decode: those kept in `folder`, and the missing ones made now and kept there."""
    outputs: dict[PointKey, list[Record]] = {}
    log.info("decoding %d rows in %d ways", len(sources), len(decodes))
    pace = Pace(len(decodes), "decodes")
    with tqdm(total=len(decodes) * len(sources), unit="row", file=sys.stderr) as bar:
        for key, one in decodes.items():
            bar.set_description(one.name + (f", seed {key.seed}" if key.seed else ""))
            make = pace.timed(partial(_records, pair, sources, one, batch_size, bar.update))
            outputs[key] = cached_records(folder, key, one.made_from, make)
            bar.update(len(outputs) * len(sources) - bar.n)
    return outputs


def _records(
    pair: Pair, sources: Sequence[str], one: Decode, batch_size: int, progress: Callable[[int], object]
) -> list[Record]:
    traces = decode(pair, sources, one.method, one.params, batch_size=batch_size, progress=progress)
    return [Record.of(trace) for trace in traces]
