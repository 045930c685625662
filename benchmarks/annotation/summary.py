"""Figures of `wheels bench annotation`: means over seeds, intervals, and the effect of the filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from wheels.benchmarks.annotation.cells import Bench, GridPoint
from wheels.benchmarks.annotation.config import AnnotationConfig
from wheels.benchmarks.core.bootstrap import (
    Comparison,
    Floats,
    compare,
    mean_over_seeds,
    paired_bootstrap,
    resample_sentences,
)
from wheels.metrics import SufficientStatistics, sentence_statistics

Label = Mapping[str, Any]
Statistics = Mapping[str, Mapping[GridPoint, SufficientStatistics]]
FILTER_FIGURES = ("right_before", "right_after", "lift", "kept", "recall", "wrong_caught")
"""Of labels: share right before and after the filter, and the difference; share let through; share of the right ones
that are let through (recall; `right_after` is the precision); share of the wrong ones that are stopped."""
SCORE_FIGURES = ("score_before", "score_after", "score_lift")
"""Of the labels' scores against the references, 0 to 100, which tell almost right from wrong: their mean before and
after the filter, and the difference."""


def statistics(bench: Bench, answers: Sequence[str], metric: str) -> SufficientStatistics:
    """Return the per-row statistics of a metric."""
    return sentence_statistics(metric, answers, [row.scored_against for row in bench.test])


def groups(cells: Sequence[GridPoint]) -> list[tuple[GridPoint, ...]]:
    """Group the cells that differ only in their seed."""
    found: dict[tuple[Any, ...], list[GridPoint]] = {}
    for cell in cells:
        key = (cell.strategy, cell.budget, cell.warm_up, cell.teacher, cell.assistant)
        found.setdefault(key, []).append(cell)
    return [tuple(group) for group in found.values()]


def summarise(bench: Bench, results: Mapping[GridPoint, Mapping[str, Any]], start: Sequence[str]) -> dict[str, Any]:
    """Return every figure, as values of JSON.

    `start` are the untrained student's outputs for the test rows.
    """
    metrics = bench.config.shown
    stats = {
        metric: {cell: statistics(bench, facts["answers"], metric) for cell, facts in results.items()}
        for metric in metrics
    }
    points = [_point(group, results, stats) for group in groups(list(results))]
    return {
        "task": bench.task.name,
        "metrics": list(metrics),
        "label_metric": bench.config.metric,
        "test_rows": len(bench.test),
        "pool_rows": len(bench.pool),
        "seeds": bench.config.seeds,
        "start": {metric: statistics(bench, start, metric).corpus() for metric in metrics},
        "points": points,
        "paired": _paired(bench.config, results, stats),
    }


def _point(
    group: Sequence[GridPoint], results: Mapping[GridPoint, Mapping[str, Any]], stats: Statistics
) -> dict[str, Any]:
    """Return the figures of one line of the table."""
    first = group[0]
    line = first.described()
    for metric, by_cell in stats.items():
        line[metric] = [by_cell[cell].corpus() for cell in group]
    bought = [results[cell]["labels"] for cell in group]
    kept = [[label for label in run if label["accepted"]] for run in bought]
    line["accepted"] = [len(run) for run in kept]
    for name in ("right", "score"):
        line[f"{name}_bought"] = [_mean(run, name) for run in bought]
        line[f"{name}_trained_on"] = [_mean(run, name) for run in kept]
    line["signatures"] = [results[cell]["signature"] for cell in group]
    return line


def _mean(labels: Sequence[Label], name: str) -> float:
    """Return the share of labels that are `right`, or the mean of their `score`, 0 to 100; 0 without any."""
    return float(np.mean([label[name] for label in labels])) if labels else 0.0


def _paired(
    config: AnnotationConfig, results: Mapping[GridPoint, Mapping[str, Any]], stats: Statistics
) -> list[dict[str, Any]]:
    """Return each group minus its baseline: random at equal budget, or the main form of 'full' for an ablation."""
    every = groups(list(results))
    lines = []
    for group in every:
        one = group[0]
        for other in every:
            base = other[0]
            if not _is_base(config, one, base) or one == base:
                continue
            for metric in stats:
                difference = paired_bootstrap(
                    [stats[metric][cell] for cell in group], [stats[metric][cell] for cell in other], config.resamples
                )
                names = {"minus": base.strategy, "metric": metric}
                lines.append(one.described() | names | asdict(difference))
    return lines


def _is_base(config: AnnotationConfig, one: GridPoint, base: GridPoint) -> bool:
    """Whether `base` is a baseline of `one`: random, or the main form of 'full' for an ablation."""
    if (one.budget, one.teacher) != (base.budget, base.teacher):
        return False
    if base.strategy == "random":
        return True
    main = (config.warm_up, config.assistants[0])
    ablation = one.strategy == "full" and (one.warm_up, one.assistant) != main
    if base.strategy == "full" and (base.warm_up, base.assistant) == main:
        return ablation
    return base.strategy == "random+filter" and one.strategy == "full" and not ablation


def filter_figures(labels_I: Sequence[Sequence[Label]], resamples: int, seed: int = 0) -> dict[str, Comparison]:
    """Return the effect of the filter on labels, with intervals of a bootstrap over labels and seeds."""
    by_seed = [_figures(labels, resamples, seed + place) for place, labels in enumerate(labels_I)]
    return _over_seeds(FILTER_FIGURES, by_seed, seed)


def score_figures(labels_I: Sequence[Sequence[Label]], resamples: int, seed: int = 0) -> dict[str, Comparison]:
    """Return the effect of the filter on the labels' scores, with intervals as in `filter_figures`."""
    by_seed = []
    for place, labels in enumerate(labels_I):
        weights_ZN = resample_sentences(len(labels), resamples, seed + place)
        score_N = np.array([label["score"] for label in labels], dtype=np.float64)
        kept_N = np.array([label["accepted"] for label in labels], dtype=np.float64)
        before_Z = weights_ZN @ score_N / len(labels)
        after_Z = weights_ZN @ (score_N * kept_N) / np.maximum(weights_ZN @ kept_N, 1.0)
        by_seed.append([before_Z, after_Z, after_Z - before_Z])
    return _over_seeds(SCORE_FIGURES, by_seed, seed)


def _over_seeds(names: Sequence[str], by_seed: Sequence[Any], seed: int) -> dict[str, Comparison]:
    """Return the mean over seeds of each figure, with its interval; `by_seed` holds [F, Z] of each seed."""
    figures = zip(names, np.moveaxis(np.array(by_seed), 0, 1), strict=True)
    return {name: compare(mean_over_seeds(values_IZ, seed)) for name, values_IZ in figures}


def _figures(labels: Sequence[Label], resamples: int, seed: int) -> Floats:
    """Return the figures of one seed, [F, 1 + R]; column 0 is the sample itself."""
    right_N, kept_N = (np.array([bool(label[name]) for label in labels]) for name in ("right", "accepted"))
    both_KN = np.array([right_N & kept_N, right_N & ~kept_N, ~right_N & kept_N, ~right_N & ~kept_N])
    kinds = both_KN.sum(axis=1).astype(np.float64)
    drawn = np.random.default_rng([seed, 5]).multinomial(len(labels), kinds / len(labels), size=resamples)
    kept_right, lost_right, kept_wrong, caught = np.concatenate((kinds[None], drawn)).T
    kept, right = kept_right + kept_wrong, kept_right + lost_right
    before, after = right / len(labels), kept_right / np.maximum(kept, 1)
    recall, stopped = kept_right / np.maximum(right, 1), caught / np.maximum(kept_wrong + caught, 1)
    return np.array([before, after, after - before, kept / len(labels), recall, stopped])
