"""A small world without models: records, references and a metric that follow a known curve."""

from __future__ import annotations

import numpy as np

from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey, Record
from wheels.benchmarks.curve.resampled import Measured

EXPONENTS = {
    "learned": 0.40,
    "regret": 0.45,
    "maxprob": 0.72,
    "entropy": 0.76,
    "margin": 0.68,
    "random": 1.0,
    "foresight": 0.2,
    "gate": 0.5,
    "router": 0.85,
    "every-k": 0.98,
    "first-k": 0.92,
}
"""PGR at use u is u ** exponent."""
SEEDED = ("learned", "regret", "random", "gate", "router", "every-k")


class MeanStatistics:
    """A metric that is the mean of per-sentence values, with the interface of `wheels.metrics`."""

    def __init__(self, values: list[float]) -> None:
        self.values_N = np.array(values)

    def __len__(self) -> int:
        return len(self.values_N)

    def resampled(self, weights_ZN: np.ndarray) -> np.ndarray:
        return weights_ZN @ self.values_N / weights_ZN.sum(1)


def statistics(metric: str, hypotheses: list[str], references: list[str]) -> MeanStatistics:
    """Score a hypothesis by the number that stands in it; chrF is drawn 15 points above BLEU."""
    return MeanStatistics([float(text.split()[-1]) + (15.0 if metric == "chrf" else 0.0) for text in hypotheses])


def record(quality: float, calls: int, tokens: int) -> Record:
    """Return a record whose output holds its own quality, with `calls` tokens by the teacher."""
    authors = tuple("teacher" if i < calls else "student" for i in range(tokens))
    pieces = tuple(f" <w{i}>" for i in range(tokens))
    return Record(f"<u>text</u> & {quality}", tokens, calls, calls, tokens if calls else 0, 0.01, pieces, authors)


def records(pgr: float, use: float, count: int, rng: np.random.Generator, hardness: np.ndarray) -> list[Record]:
    """Return sentences with mean quality 20 + 14 * pgr, correlated between systems by `hardness`."""
    quality = 20.0 + 14.0 * pgr + hardness + rng.normal(0, 3.0, count)
    calls = rng.binomial(20, use, count) if 0 < use < 1 else np.full(count, round(20 * use))
    return [record(float(q), int(k), 20) for q, k in zip(quality, calls, strict=True)]


def measured(
    rules: tuple[str, ...] = tuple(EXPONENTS),
    budgets: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0),
    count: int = 60,
    seeds: int = 3,
    mode: str = "average",
) -> Measured:
    """Return a complete set of outputs."""
    rng = np.random.default_rng(0)
    hardness = rng.normal(0, 8.0, count)
    outputs = {end: records(end.budget, end.budget, count, rng, hardness) for end in (STUDENT_END, TEACHER_END)}
    for rule in rules:
        for seed in range(seeds if rule in SEEDED else 1):
            for budget in budgets:
                if 0 < budget < 1:
                    use = min(1.0, max(0.0, budget + rng.normal(0, 0.006)))
                    share = use ** EXPONENTS[rule] + rng.normal(0, 0.012)
                    outputs[PointKey(rule, seed, budget)] = records(share, use, count, rng, hardness)
    return Measured(
        task="synthetic_de_en",
        student="small",
        teacher="large",
        sources=[f"Quelle <i>{i}</i>" for i in range(count)],
        references=[f"source {i}" for i in range(count)],
        metrics=("bleu", "chrf"),
        budgets=budgets,
        rules=rules,
        mode=mode,
        outputs=outputs,
        resamples=200,
        notes=("learned was trained with 2 seeds, 3 were asked for",),
    )
