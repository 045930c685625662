"""The cache in numbers: size, error, and the time and memory that it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

import wheels
from wheels.benchmarks.core.bootstrap import compare, interval, mean_over_seeds, ratio_by_round, resample_sentences
from wheels.benchmarks.distillation.config import CacheConfig
from wheels.benchmarks.distillation.summary import MEAN, SEED
from wheels.config.parsing import versions
from wheels.metrics import metric_name, sentence_statistics, signature
from wheels.metrics.names import Reference
from wheels.output.tables import Table, band, number

CLOCKS = ("wall_ms", "cpu_ms")


def summarise(
    config: CacheConfig,
    task: str,
    references: Sequence[Reference],
    metrics: Sequence[str],
    trained: Mapping[str, Any],
    parts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of `cache.json`."""
    steps = parts["steps"]
    return {
        "task": task,
        "config": asdict(config),
        "rows": parts["sizes"]["rows"],
        "vocab_size": parts["sizes"]["vocab_size"],
        "weights": parts["sizes"]["weights"],
        "errors": parts["sizes"]["errors"],
        "steps": steps,
        "speedup": {
            way: {clock: ratio_by_round(steps["live"][clock], steps[way][clock]) for clock in CLOCKS}
            for way in steps
            if way != "live"
        },
        "memory_mb": parts["memory"],
        "quality": quality(config, references, metrics, trained),
        "runs": run_seconds(config, trained),
        "metric_signatures": {metric: signature(metric, references) for metric in metrics},
        "signature": f"{task}|validation|{len(references)}|cache:{config.k}|T{config.temperature:g}|"
        f"seeds:{config.seeds}|wheels:{wheels.__version__}",
        "versions": versions(),
    }


def quality(
    config: CacheConfig, references: Sequence[Reference], metrics: Sequence[str], trained: Mapping[str, Any]
) -> dict[str, Any]:
    """Return each metric on the validation rows: both ways, and the cache minus the live teacher."""
    found: dict[str, Any] = {}
    count = len(trained["live-s0"]["texts"])
    weights_ZN = resample_sentences(count, config.resamples, SEED)
    for metric in metrics:
        sides = {}
        for way in ("live", "cache"):
            texts = [trained[f"{way}-s{seed}"]["texts"] for seed in range(config.seeds)]
            values = [sentence_statistics(metric, one, list(references[:count])).resampled(weights_ZN) for one in texts]
            sides[way] = np.stack(values)
        means = {way: mean_over_seeds(values, SEED) for way, values in sides.items()}
        found[metric] = {way: interval(means[way], *MEAN) for way in means} | {
            "by_seed": {way: [float(value) for value in values[:, 0]] for way, values in sides.items()},
            "cache_minus_live": asdict(compare(means["cache"] - means["live"])),
        }
    return found


def run_seconds(config: CacheConfig, trained: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the seconds of each seed's whole trainings, evaluation included; None where one was interrupted."""
    return [
        {"seed": seed, **{way: trained[f"{way}-s{seed}"]["seconds"] for way in ("live", "cache")}}
        for seed in range(config.seeds)
    ]


def as_text(summary: Mapping[str, Any]) -> str:
    """Return the tables for a terminal."""
    config = summary["config"]
    parts = [
        f"{summary['task']}: caches of {summary['rows']} training rows, V = {summary['vocab_size']:,}",
        _sizes_table(summary),
        _steps_table(summary),
    ]
    memory = [[way, number(value, 0)] for way, value in summary["memory_mb"].items()]
    parts.append(Table((), memory).text("highest resident memory of a training, MiB"))
    rows = []
    for metric, found in summary["quality"].items():
        ways = [text for way in ("live", "cache") for text in (number(found[way]["mean"], 2), band(found[way]))]
        minus = found["cache_minus_live"]
        rows.append([metric_name(metric), *ways, number(minus["difference"], 2, "+"), band(minus)])
    title = f"trained to the end, T = {config['temperature']:g}, k = {config['k']}, {config['seeds']} seeds"
    head = ["validation", "live", "95%", "cache", "95%", "cache - live", "95%"]
    parts.append(Table(head, rows).text(title))
    return "\n\n".join(parts) + "\n"


def _sizes_table(summary: Mapping[str, Any]) -> str:
    """Return the weight and the errors of each cache size."""
    temperatures = summary["config"]["temperatures"]
    names = [f"{what} T={one:g}" for one in temperatures for what in ("loss", "gradient")]
    rows = []
    for weight in summary["weights"]:
        found = [error_at(summary, weight["k"], temperature) for temperature in temperatures]
        errors = [number(error[which], 3) for error in found for which in ("share", "gradient")]
        size = [number(weight["bytes_per_token"], 0), number(weight["bytes"] / 1e6), number(weight["seconds"])]
        rows.append([weight["k"], *size, *errors])
    head = ["k", "bytes a token", "MB", "seconds", *names]
    return Table(head, rows).text("share of the full loss that is seen; relative error of the gradient")


def _steps_table(summary: Mapping[str, Any]) -> str:
    """Return the time of a step for each way, and the ratio live / this."""
    rows = []
    for way, clocks in summary["steps"].items():
        faster = summary["speedup"].get(way)
        ratios = [_ratio(faster[clock]) if faster else "" for clock in CLOCKS]
        rows.append([way, *(number(float(np.median(clocks[clock]))) for clock in CLOCKS), *ratios])
    title = f"a training step, median of {summary['config']['rounds']} interleaved rounds"
    return Table(["step", "ms", "cpu ms", "live / this", "cpu"], rows).text(title)


def _ratio(found: Mapping[str, float]) -> str:
    return f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


def error_at(summary: Mapping[str, Any], k: int, temperature: float) -> Mapping[str, Any]:
    """Return the errors of one size at one temperature."""
    found: Mapping[str, Any] = next(
        error for error in summary["errors"] if (error["k"], error["temperature"]) == (k, temperature)
    )
    return found


def as_csv(summary: Mapping[str, Any]) -> str:
    """Return a line for each size and temperature."""
    fields = ("temperature", "full", "merged", "share", "worst", "gradient", "rest")
    rows = []
    for weight in summary["weights"]:
        sizes = [weight["k"], f"{weight['bytes_per_token']:.1f}", weight["bytes"], weight["tokens"]]
        for temperature in summary["config"]["temperatures"]:
            error = error_at(summary, weight["k"], temperature)
            rows.append([*sizes, f"{weight['seconds']:.2f}", *(error[field] for field in fields)])
    return Table(["k", "bytes_per_token", "bytes", "tokens", "seconds", *fields], rows).csv()
