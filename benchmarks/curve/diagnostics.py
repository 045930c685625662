"""Diagnostics of one curve: where the calls go, how well regret is predicted, and the prices of the training."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wheels.benchmarks.core.cell import PointKey
from wheels.benchmarks.curve.calls import overall_rate, quarters, rates_by_frequency, rates_by_position
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.curve.decodes import CurvePlan, signature_of
from wheels.benchmarks.curve.reliability import cached_judged, reliability, spread
from wheels.benchmarks.curve.resampled import Measured
from wheels.data.tasks import Row, Task
from wheels.json_text import parse_object
from wheels.metrics.names import several
from wheels.models.pair import Pair

PREDICT_REGRET = ("regret", "learned")
"""Rules whose head predicts a regret; the agent's may have been taught what a call gains in the task's metric."""
COUNTED_ROWS = 20_000
"""Rows of the training split whose tokens are counted at most."""
Prices = dict[float, dict[int, list[tuple[int, float]]]]
"""By budget and seed: (round, price in nats per teacher token), in order; the last rounds settle the prices."""


@dataclass(frozen=True)
class Diagnostics:
    """All diagnostics; `why` explains what is missing."""

    calls: dict[str, Any] | None = None
    """Where the first rule calls."""
    reliability: dict[str, Any] | None = None
    """How well a trained rule predicts."""
    prices: Prices = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    """Why `reliability` or `prices` is missing: a sentence each."""

    @property
    def details(self) -> dict[str, Any]:
        """What `curve.json` holds under this name."""
        return {"calls": self.calls, "reliability": self.reliability}


def diagnose(config: CurveConfig, plan: CurvePlan, measured: Measured, task: Task, data_digest: str) -> Diagnostics:
    """Compute the diagnostics of the decodes near use 0.2; teacher-forced once, then cached."""
    why: dict[str, str] = {}
    folder = plan.artefact.folder
    prices = read_prices(folder / "metrics.jsonl") if folder is not None else {}
    if not prices:
        why["prices"] = "The model's folder holds no metrics.jsonl with the prices of its training."
    calls = _calls(plan.artefact.pair, measured, task, config.split)
    return Diagnostics(calls, _predicted(config, plan, measured, data_digest, why), prices, why)


def _calls(pair: Pair, measured: Measured, task: Task, split: str) -> dict[str, Any] | None:
    """Return where the first rule calls, by tenths of the output and by frequency in the text that is `counted`.

    None where only the ends were decoded.
    """
    budget, rule = measured.shown, measured.rules[0]
    if budget is None:
        return None
    runs = [measured.outputs[PointKey(rule, seed, budget)] for seed in measured.seeds(rule)]
    resampling = {"resamples": measured.resamples, "seed": measured.seed}
    rows, counted = _counted_rows(task, measured, split)
    frequency = rates_by_frequency(runs, quarters(pair.encode_targets(rows)), **resampling)
    position = rates_by_position(runs, **resampling)
    found = {"rule": rule, "budget": budget, "overall": overall_rate(runs)}
    return found | {"position": position, "frequency": frequency, "counted": counted}


def _counted_rows(task: Task, measured: Measured, split: str) -> tuple[list[str], str]:
    """Return the texts whose tokens are counted, and what they are called."""
    train: Sequence[Row] = task.splits.get("train", ())
    if not train:
        counted = f"the references of the scored rows (the data has no train split, only {split})"
        return [text for known in measured.references for text in several(known)], counted
    chosen = train[:COUNTED_ROWS]
    part = "" if len(chosen) == len(train) else f"the first {len(chosen)} rows of "
    return [row.target for row in chosen], f"{part}the training split"


def _predicted(
    config: CurveConfig, plan: CurvePlan, measured: Measured, data_digest: str, why: dict[str, str]
) -> dict[str, Any] | None:
    """Return how well the regret is predicted; None, with a reason in `why`, where nothing can be measured.

    `found` is against regrets that count for at most `clip` nats, as in training (inf: not known); `whole` as they are.
    """
    rule = next((rule for rule in PREDICT_REGRET if rule in measured.rules), None)
    budget = measured.shown
    if rule is None or budget is None:
        why["reliability"] = "No trained rule was decoded between the ends, so there is no prediction to judge."
        return None
    keys = [PointKey(rule, seed, budget) for seed in measured.seeds(rule)]
    rows = spread(len(measured.references))
    sources, folder = [measured.sources[row] for row in rows], Path(config.output) / "examined"
    judged = []
    for key in tqdm(keys, desc=f"reading again what {rule} wrote", unit="decode", file=sys.stderr):
        signature = signature_of(config, plan, key, data_digest, len(measured.references))
        records = [measured.outputs[key][row] for row in rows]
        judged.append(cached_judged(folder, signature, plan.artefact, key, sources, records, config.batch_size))
    clip = _clip(plan.artefact.config)
    found, whole = (reliability(judged, measured.resamples, measured.seed, most) for most in (clip, math.inf))
    if found is None or whole is None:
        why["reliability"] = "Every output of that decode is empty, so there is no state to judge."
        return None
    return {"rule": rule, "budget": budget, "clip": clip, "found": found, "whole": whole}


def _clip(config: Mapping[str, Any]) -> float:
    """Return the cap on regrets of the model's training, in nats; inf where none is noted."""
    clip = config.get("trained", {}).get("settings", {}).get("regret_clip")
    return float(clip) if isinstance(clip, int | float) else math.inf


def read_prices(path: Path) -> Prices:
    """Return the prices that `wheels train` logged, as `path` holds them; empty where it holds none.

    A line that was cut, or that tells of something else, is passed over.
    """
    found: dict[float, dict[int, dict[int, float]]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for text in lines:
        try:
            figures = parse_object(text, str(path), finite=False)
            place = int(figures["seed"]), int(figures["round"])
            prices = {float(budget): float(price) for budget, price in figures["prices"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for budget, price in prices.items():
            found.setdefault(budget, {}).setdefault(place[0], {})[place[1]] = price
    return {
        budget: {seed: sorted(rounds.items()) for seed, rounds in sorted(seeds.items())}
        for budget, seeds in sorted(found.items())
    }
