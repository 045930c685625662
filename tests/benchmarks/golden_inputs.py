"""What the golden figures are computed from: small outputs drawn from a seed, and the committed results read back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.benchmarks.curve import synthetic
from wheels.benchmarks.annotation.cells import Bench, GridPoint
from wheels.benchmarks.annotation.config import AnnotationConfig
from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.core.cell import PointKey, Record
from wheels.benchmarks.curve.resampled import Resampled
from wheels.benchmarks.distillation.plan import Kind
from wheels.benchmarks.distillation.summary import ModelOutputs, SweepOutputs
from wheels.benchmarks.passes.settings import Setting, ends
from wheels.benchmarks.speed.forward_timer import Machine
from wheels.benchmarks.speed.records import Round
from wheels.benchmarks.speed.summary import BatchFigures, Figures, Forward, Speed
from wheels.config.parsing import build
from wheels.data.tasks import Row, Task
from wheels.decoding.methods.method import deferral, speculative
from wheels.decoding.methods.rules import RULES
from wheels.metrics import SufficientStatistics, sentence_statistics

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
WORDS = ["ein", "Hund", "läuft", "über", "die", "Wiese", "und", "zwei", "Kinder", "sehen", "ihm", "dabei", "zu"]


def curve_outputs() -> Any:
    """Three seeds of a trained rule, its baselines, and budgets with a gap between 0.3 and 1."""
    rules = ("learned", "regret", "maxprob", "margin", "random", "foresight")
    return synthetic.measured(rules, (0.0, 0.1, 0.2, 0.3, 1.0), count=24, seeds=2)


def strict_outputs() -> Any:
    return synthetic.measured(("learned", "maxprob", "random"), (0.0, 0.25, 1.0), count=16, seeds=2, mode="strict")


def passes_outputs() -> tuple[list[Setting], dict[PointKey, list[Record]], Resampled]:
    """Curves with and without seeds, and a tuned one: share of the gap, and passes for 20 tokens."""
    places: dict[Setting, tuple[float, int]] = {}

    def add(family: str, label: str, budget: float | None, line: str, seed: int | None, at: tuple[float, int]) -> None:
        method = speculative() if budget is None else deferral(RULES["random"], budget)
        places[Setting(family, label, method, line, seed)] = at

    for seed in (0, 1):
        for budget in (0.1, 0.2, 0.3):
            place = f"budget {budget:g}"
            add("deferral", place, budget, "deferral", seed, (budget**0.6, round(20 * budget)))
            add("verified", f"{place}, 2 nats", budget, "verified, 2 nats", seed, (budget**0.4, round(24 * budget)))
        add("tuned", "verified, budget 0.2, 2 nats", 0.2, "tuned", seed, (0.6, 4))
    for nats, share, passes in ((4, 0.3, 2), (2, 0.7, 4), (1, 0.9, 6)):
        add("take-back", f"16 tokens, {nats} nats", None, "take-back", None, (share, passes))
    for draft, passes in ((2, 9), (5, 6)):
        add("speculative", f"drafts of {draft}", None, "speculative", None, (1.0, passes))
    settings, rng = [*ends(), *places], np.random.default_rng(3)
    hardness = rng.normal(0, 8.0, 20)
    outputs = {}
    for setting, (share, passes) in zip(settings, [(0.0, 0), (1.0, 20), *places.values()], strict=True):
        quality = 20.0 + 14.0 * share + hardness + rng.normal(0, 3.0, 20)
        outputs[setting.key] = [
            Record(f"text {value}", 20, passes, int(calls), 2 * passes, 0.1)
            for value, calls in zip(quality, rng.binomial(20, passes / 20, 20), strict=True)
        ]
    return settings, outputs, Resampled(outputs, ["x"] * 20, ["bleu", "chrf"], synthetic.statistics, 100, 0)


def sentence(rng: np.random.Generator, wrong: float, words: list[str]) -> str:
    return " ".join(str(rng.choice(WORDS)) if rng.random() < wrong else word for word in words)


def references(rng: np.random.Generator, count: int) -> list[str]:
    return [" ".join(rng.choice(WORDS, size=6)) for _ in range(count)]


def sweep_outputs() -> SweepOutputs:
    """Two sizes, three labels, two temperatures, two seeds; a teacher, and something that needs no model."""
    rng = np.random.default_rng(5)
    wanted = references(rng, 20)
    kinds = [Kind(size, *rest) for size in ("w48", "w96")
             for rest in (("hard", 0.0, None), ("soft", 1.0, 1.0), ("soft", 1.0, 5.0), ("both", 0.5, 1.0))]  # fmt: skip
    cells = {
        kind: [
            ModelOutputs([sentence(rng, 0.5 - 0.04 * n, one.split()) for one in wanted], 1000 * (n + 1), 40.0 + n)
            for _ in range(2)
        ]
        for n, kind in enumerate(kinds)
    }
    teacher = ModelOutputs([sentence(rng, 0.1, one.split()) for one in wanted], 123_456, None)
    return SweepOutputs(task="words", references=wanted, metrics=("bleu", "exact"), cells=cells, teacher=teacher,
                    baselines={"the commonest target": 1.5}, cached_logits=20, objective="kl", resamples=100,
                    training="2 epochs, batches of 8")  # fmt: skip


def grid_results() -> tuple[Bench, dict[GridPoint, dict[str, Any]], list[str]]:
    """Four strategies with two seeds, an ablation of the warm-up among them."""
    files = {"data": "d", "pool": "p", "student": "s", "assistants": ("runs/a",), "output": "o"}
    more = {"budgets": (8,), "seeds": 2, "metric": "chrf", "metrics": ("chrf", "exact"), "resamples": 100}
    config = build(AnnotationConfig, files | more)
    rng = np.random.default_rng(7)
    rows = [Row(one, one) for one in references(rng, 16)]
    bench = Bench(config, Task("words", {"test": rows}), rows)
    grid = [("random", 0.0), ("random+filter", 0.0), ("full", config.warm_up), ("full", 0.3)]
    results = {}
    for strategy, warm_up in grid:
        for seed in range(2):
            cell = GridPoint(strategy, 8, warm_up, "references:0.3", "runs/a", seed)
            labels = [
                {"right": bool(rng.random() < 0.7), "accepted": bool(rng.random() < 0.8), "stage": "main", "grade": 1}
                | {"score": round(100 * rng.random(), 3)}
                for _ in range(8)
            ]
            answers = [sentence(rng, 0.4, row.target.split()) for row in rows]
            results[cell] = {"answers": answers, "labels": labels, "signature": bench.signature(cell)}
    return bench, results, [sentence(rng, 0.9, row.target.split()) for row in rows]


def right_answers() -> dict[tuple[str, int, int], SufficientStatistics]:
    """Which of 30 rows each student of three kinds answers rightly, with two seeds."""
    rng = np.random.default_rng(9)
    shares = {("none", 0): 0.4, ("random", 2): 0.45, ("saliency", 2): 0.6, ("saliency", 1): 0.5}
    return {
        (name, k, seed): SufficientStatistics("exact", 100.0 * (rng.random((30, 1)) < share))
        for (name, k), share in shares.items()
        for seed in range(2)
    }


def cache_texts() -> tuple[list[str], dict[str, Any]]:
    """What students with a live teacher and with its cache write, three seeds."""
    rng = np.random.default_rng(11)
    wanted = references(rng, 12)
    trained = {f"{way}-s{seed}": {"texts": [sentence(rng, 0.4, one.split()) for one in wanted], "seconds": None}
               for way in ("live", "cache") for seed in range(3)}  # fmt: skip
    return wanted, trained


def study_lines() -> list[dict[str, Any]]:
    """A baseline, a teacher and a student, scored."""
    rng = np.random.default_rng(13)
    wanted = references(rng, 10)
    plain: dict[str, Any] = {"objective": "-"}
    facts = {"steps": 30, "teacher_tokens": 1200, "seconds": 4.5, "parameters": 1000}
    lines = [plain | {"name": "lead-3"}, plain | {"name": "teacher", "parameters": 9999, "steps": "", "seconds": ""},
             facts | {"name": "kl", "objective": "kl"}]  # fmt: skip
    for line in lines:
        for split in ("validation", "test"):
            texts = [sentence(rng, 0.5, one.split()) for one in wanted]
            line[split] = {name: sentence_statistics(name, texts, wanted).corpus() for name in ("chrf", "rougeL")}
    return lines


def or_nan(value: Any) -> Any:
    """Return a value of JSON with nan for null."""
    if isinstance(value, dict):
        return {name: or_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [or_nan(part) for part in value]
    return math.nan if value is None else value


def committed(folder: str, name: str) -> dict[str, Any]:
    """Return a committed result."""
    found: dict[str, Any] = json.loads((RESULTS / folder / f"{name}.json").read_text())
    return found


def committed_curve(folder: str) -> dict[str, Any]:
    content = committed(folder, "curve")
    return content | {name: or_nan(content[name]) for name in ("apgr", "cpt", "at_use", "paired", "apgr_paired")}


def committed_passes(folder: str) -> dict[str, Any]:
    content = committed(folder, "passes")
    return or_nan(content) | {"speculation": content["speculation"]}


def committed_speed(folder: str) -> Speed:
    content = committed(folder, "speed")

    def spread(value: Any) -> Any:
        return Spread(**value) if isinstance(value, dict) and "median" in value else value

    def made(kind: Any, lines: list[dict[str, Any]]) -> list[Any]:
        return [kind(**{name: spread(value) for name, value in line.items()}) for line in lines]

    batches = []
    for one in content.pop("batches"):
        rounds = [
            Round(each["order"], each["load_average"],
                  {name: SimpleNamespace(seconds=value) for name, value in each["seconds"].items()},  # type: ignore[misc]
                  Machine(**each["machine"]), [])
            for each in one["rounds"]
        ]  # fmt: skip
        figures, forwards = made(Figures, one["contestants"]), made(Forward, one["forwards"])
        batches.append(BatchFigures(one["batch_size"], one["reference"], figures, forwards, rounds))
    return Speed(content, content.pop("notes"), batches)
