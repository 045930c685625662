"""Summary of a sweep: means over seeds with intervals, and each kind against hard labels.

Intervals are of a bootstrap over sentences and seeds (`benchmarks/core/bootstrap.py`); two kinds are scored on the same
drawn sentences and the same drawn seeds. Axes: Z resamples (row 0 is the sample itself), I seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import wheels
from wheels.benchmarks.core.bootstrap import Comparison, Floats, compare, interval, mean_over_seeds, resample_sentences
from wheels.benchmarks.distillation.plan import Kind
from wheels.config.parsing import versions
from wheels.metrics import sentence_statistics, signature
from wheels.metrics.names import Reference

SEED = 0
"""Of the bootstrap's draws."""
MEAN = ("mean", "low", "high")
"""Names of a value with its interval."""


@dataclass(frozen=True)
class ModelOutputs:
    """One trained model."""

    texts: Sequence[str]
    """What it wrote for the test rows."""
    parameters: int
    """Its weights."""
    validation: float | None
    """Its best score on validation rows while it trained, by the metric that picks the checkpoint."""


@dataclass(frozen=True)
class SweepOutputs:
    """Everything that a summary is computed from; plain data, no model."""

    task: str
    references: Sequence[Reference]
    """What the test rows should have become."""
    metrics: Sequence[str]
    """The first is the quality."""
    cells: Mapping[Kind, Sequence[ModelOutputs]]
    """The students of each kind, by seed."""
    teacher: ModelOutputs
    baselines: Mapping[str, float]
    """Quality of what needs no model."""
    cached_logits: int
    """k of the teacher's cache; 0: live."""
    objective: str
    resamples: int
    training: str
    """How long each student was trained, in words."""


def summarise(measured: SweepOutputs) -> dict[str, Any]:
    """Return the summary of a sweep, the content of `distillation.json`.

    `lines`: one for each kind of student (`_line`). `contrasts`: the differences of the quality that claims are about.
    """
    weights_ZN = resample_sentences(len(measured.references), measured.resamples, SEED)
    sample = {
        (metric, kind): np.stack([_resampled(measured, metric, cell, weights_ZN) for cell in cells])
        for metric in measured.metrics
        for kind, cells in measured.cells.items()
    }
    means = {key: mean_over_seeds(values_IZ, SEED) for key, values_IZ in sample.items()}
    chosen = chosen_kinds(measured)
    quality = measured.metrics[0]
    teacher_Z = {metric: _resampled(measured, metric, measured.teacher, weights_ZN) for metric in measured.metrics}
    return {
        "task": measured.task,
        "sentences": len(measured.references),
        "metrics": list(measured.metrics),
        "training": measured.training,
        "objective": measured.objective,
        "cached_logits": measured.cached_logits,
        "teacher": {"parameters": measured.teacher.parameters}
        | {metric: interval(values_Z, *MEAN) for metric, values_Z in teacher_Z.items()},
        "baselines": dict(measured.baselines),
        "lines": [_line(measured, kind, sample, means, kind in chosen.values()) for kind in measured.cells],
        "contrasts": contrasts(chosen, {kind: means[quality, kind] for kind in measured.cells}),
        "metric_signatures": {metric: signature(metric, measured.references) for metric in measured.metrics},
        "versions": versions(),
    }


def chosen_kinds(measured: SweepOutputs) -> dict[tuple[str, str], Kind]:
    """Return, for each size and label, the kind that is best on validation rows; the first of equals."""
    best: dict[tuple[str, str], Kind] = {}
    for kind in measured.cells:
        place = kind.size, kind.label
        if place not in best or (validation(measured, kind) or 0.0) > (validation(measured, best[place]) or 0.0):
            best[place] = kind
    return best


def validation(measured: SweepOutputs, kind: Kind) -> float | None:
    """Return a kind's mean score on validation rows; None where there are none."""
    values = [cell.validation for cell in measured.cells[kind]]
    return None if None in values else float(np.mean([value for value in values if value is not None]))


def contrasts(chosen: Mapping[tuple[str, str], Kind], means: Mapping[Kind, Floats]) -> list[dict[str, Any]]:
    """Return the differences of the quality that the claims are about.

    Per size: each pair of labels, at the temperatures and weights that validation rows chose. Per label and weight:
    each temperature minus the lowest. Per temperature: each weight minus the lowest, w = 1 being soft labels alone.
    Over sizes: a label minus hard in one size, minus the same in the size before it.
    """
    sizes = list(dict.fromkeys(size for size, _ in chosen))
    found = []
    for size in sizes:
        for one, other in (("soft", "hard"), ("both", "hard"), ("both", "soft")):
            if {(size, one), (size, other)} <= chosen.keys():
                a, b = chosen[size, one], chosen[size, other]
                found.append(_contrast("labels", a.name, b.name, means[a] - means[b]))
    found += _above_lowest("temperature", means, lambda kind: (kind.size, kind.line), lambda kind: kind.temperature)
    found += _above_lowest("weight", means, lambda kind: (kind.size, kind.temperature), lambda kind: kind.w)
    for label in ("soft", "both"):
        gains = {
            size: means[chosen[size, label]] - means[chosen[size, "hard"]]
            for size in sizes
            if {(size, label), (size, "hard")} <= chosen.keys()
        }
        for small, large in pairwise(gains):
            names = (f"({label} - hard) at {large}", f"({label} - hard) at {small}")
            found.append(_contrast("capacity", *names, gains[large] - gains[small]))
    return found


def _above_lowest(
    claim: str, means: Mapping[Kind, Floats], rest: Callable[[Kind], object], value: Callable[[Kind], Any]
) -> list[dict[str, Any]]:
    """Return each kind that learns from the teacher, minus the one of the same `rest` whose `value` is lowest."""
    found = []
    judged = [kind for kind in means if kind.temperature is not None]
    for kind in judged:
        lowest = min((other for other in judged if rest(other) == rest(kind)), key=value)
        if kind != lowest:
            found.append(_contrast(claim, kind.name, lowest.name, means[kind] - means[lowest]))
    return found


def _contrast(claim: str, one: str, other: str, difference_Z: Floats) -> dict[str, Any]:
    return {"claim": claim, "of": one, "minus": other} | asdict(compare(difference_Z))


def _resampled(measured: SweepOutputs, metric: str, cell: ModelOutputs, weights_ZN: Floats) -> Floats:
    """Return a model's score of each resample, [Z]."""
    return sentence_statistics(metric, list(cell.texts), list(measured.references)).resampled(weights_ZN)


def _line(
    measured: SweepOutputs,
    kind: Kind,
    sample: Mapping[tuple[str, Kind], Floats],
    means: Mapping[tuple[str, Kind], Floats],
    chosen: bool,
) -> dict[str, Any]:
    """Return the scores of one kind: by metric the mean over seeds with its 95% interval, and each seed's.

    `validation` is the mean score on validation rows; `minus_hard` the difference from hard labels of the same size,
    empty without these; `chosen`: this temperature and weight is the best of its label and size on validation rows.
    """
    cells = measured.cells[kind]
    hard = next((k for k in measured.cells if (k.size, k.label) == (kind.size, "hard")), None)
    against: dict[str, Comparison] = {}
    if hard is not None and kind != hard:
        against = {metric: compare(means[metric, kind] - means[metric, hard]) for metric in measured.metrics}
    cache = f"cache:{measured.cached_logits}" if measured.cached_logits else "live"
    parts = (
        measured.task,
        "test",
        len(measured.references),
        kind.name,
        f"{cells[0].parameters} of {measured.teacher.parameters} parameters",
        measured.objective,
        cache,
        f"seeds:{len(cells)}",
        f"wheels:{wheels.__version__}",
    )
    return {
        "name": kind.name,
        "size": kind.size,
        "parameters": cells[0].parameters,
        "label": kind.label,
        "w": kind.w,
        "temperature": kind.temperature,
        "seeds": len(cells),
        "validation": validation(measured, kind),
        "scores": {metric: interval(means[metric, kind], *MEAN) for metric in measured.metrics},
        "by_seed": {metric: [float(value) for value in sample[metric, kind][:, 0]] for metric in measured.metrics},
        "minus_hard": {metric: asdict(comparison) for metric, comparison in against.items()},
        "chosen": chosen,
        "signature": "|".join(map(str, parts)),
    }
