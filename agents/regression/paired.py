"""Counterfactual pairs: the worth of a call in the task's own metric, from texts finished with and without it.

The undiscounted path residuals of the two actions at one state differ by `gain* - alpha z`, with

    gain*(s) = R(text after a call at s) - R(text after writing at s) - price

where `R` is a terminal reward and both texts go on under one policy (`wheels.agents.gate.gain` at gamma = 1, both
next values sampled). No value has to be learned for it, and the luck of the prefix cancels. What is left is the luck of
the suffix, so few numbers are fitted: `shift(s, b)` on top of the regressed regret.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from wheels.agents.regression.fit import FitConfig, fit
from wheels.agents.seed_run import SeedRun
from wheels.data.tasks import Row
from wheels.decoding.methods.method import deferral
from wheels.decoding.methods.rule import AnyRule
from wheels.decoding.params import DecodeParams
from wheels.decoding.step import Step
from wheels.decoding.streaming import decode
from wheels.decoding.trace import TEACHER, Trace
from wheels.metrics import sentence_scores
from wheels.models.pair import Pair
from wheels.policy.head import DeferralHead

CHUNK = 2048
"""Pairs between two writes to disk."""
A_ROW = 2
"""Pairs of one row at most."""
BUDGETS = (0.1, 0.2, 0.3)
"""Budgets of the policy that finishes the texts, in turn."""
LEAST = 0.25
"""A state is chosen with a weight of its predicted gain, and at least this, in nats: where nothing is at stake both
texts are the same."""
OF_A_CORPUS = ("bleu", "chrf")
"""Metrics of a whole corpus, in which a text counts by its length."""
LEAST_STEPS = 16
"""Of an epoch: where pairs are few the batches are smaller."""
HELD = 10
"""One in so many pairs is not fitted."""


@dataclass(frozen=True)
class Pairs:
    """States, and the gain of a call in each."""

    features_NF: torch.Tensor
    """float32."""
    gain_N: torch.Tensor
    """The metric of the text with the call minus that of the text without, points of 100, weighted by length where the
    metric is of a corpus."""
    budget_N: torch.Tensor
    """The budget that the policy kept."""


@dataclass
class GainThresholdRule:
    """Calls where a head's gain exceeds the threshold of the row's budget; keeps the gains."""

    head: DeferralHead
    thresholds: dict[float, float]
    """Nats, by budget."""
    name: str = "priced"
    needs_teacher: bool = False
    gains: dict[int, dict[int, float]] = field(default_factory=dict)
    """By row and position."""

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the rows that call."""
        with torch.no_grad():
            gain_B = self.head.gain(step.features_BF, step.budget_B)
        for row, position, gain in zip(step.index_B.tolist(), step.position_B.tolist(), gain_B.tolist(), strict=True):
            self.gains.setdefault(row, {})[position] = gain
        threshold_B = [self.thresholds[budget] for budget in step.budget_B.tolist()]
        return gain_B > torch.tensor(threshold_B, device=gain_B.device)


@dataclass
class FlippedRule:
    """A rule with its decision flipped at one position of each row; keeps the features there."""

    rule: AnyRule
    at: Sequence[int]
    """The position, by row."""
    name: str = "flipped"
    needs_teacher: bool = False
    features: dict[int, torch.Tensor] = field(default_factory=dict)
    """By row."""

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the rows that call."""
        at_B = torch.tensor([self.at[row] for row in step.index_B.tolist()], device=step.position_B.device)
        here_B = step.position_B == at_B
        for place in here_B.nonzero().squeeze(-1).tolist():
            self.features[int(step.index_B[place])] = step.features_BF[place].cpu()
        return self.rule(step) ^ here_B


def thresholds_of(head: DeferralHead, features_NF: torch.Tensor) -> dict[float, float]:
    """Return the quantile of the gain for each of `BUDGETS`: the share of states that exceed it, nats."""
    with torch.no_grad():
        gain_N = head.gain(features_NF, torch.zeros(len(features_NF)))
    return {budget: float(torch.quantile(gain_N, 1.0 - budget)) for budget in BUDGETS}


def counterfactual_pairs(
    pair: Pair,
    rows: Sequence[Row],
    rule: GainThresholdRule,
    metric: str,
    *,
    seed: int,
    batch_size: int,
    max_new_tokens: int,
) -> tuple[Pairs, torch.Tensor]:
    """Write each row under a policy, flip one decision, and rewrite the rest.

    Args:
        pair: Both models.
        rows: The texts and their references.
        rule: The policy.
        metric: The sentence metric.
        seed: Chooses the states.
        batch_size: Rows decoded at once.
        max_new_tokens: Longest output.

    Returns:
        The pairs, not weighted yet, and the lengths of the texts `[N]`.
    """
    draw = random.Random(seed)
    sources, references = [row.source for row in rows], [row.scored_against for row in rows]
    budgets = [BUDGETS[place % len(BUDGETS)] for place in range(len(rows))]

    params = DecodeParams(max_new_tokens=max_new_tokens)

    def write(with_rule: AnyRule) -> list[Trace]:
        return decode(pair, sources, deferral(with_rule, budgets), params, batch_size=batch_size)

    first = write(rule)
    at = []
    for row in range(len(rows)):
        gains = rule.gains.pop(row)
        at.append(draw.choices(list(gains), [max(gain, LEAST) for gain in gains.values()])[0])
    flipped = FlippedRule(rule, at)
    second = write(flipped)
    rule.gains.clear()
    called_N = torch.tensor([trace.authors[place] == TEACHER for trace, place in zip(first, at, strict=True)])
    scores = [
        sentence_scores(metric, [trace.text for trace in traces], references, sources) for traces in (first, second)
    ]
    gain_N = torch.tensor(scores[1]) - torch.tensor(scores[0])
    features_NF = torch.stack([flipped.features[row] for row in range(len(rows))])
    length_N = torch.tensor([float(trace.tokens) for trace in first])
    return Pairs(features_NF, torch.where(called_N, -gain_N, gain_N), torch.tensor(budgets)), length_N


def collect_pairs(run: SeedRun, head: DeferralHead, features_NF: torch.Tensor) -> Pairs:
    """Return `config.pairs` pairs from the training rows, at most `A_ROW` of each row.

    Each chunk is written when it is done, so a killed run decodes none of them twice.

    Args:
        run: The seed's run.
        head: The warm start, whose gain is the policy.
        features_NF: States that its thresholds are taken from.
    """
    thresholds, config, rows = thresholds_of(head, features_NF), run.config, run.rows
    count = min(config.pairs, A_ROW * len(rows))

    def make(number: int) -> dict[str, torch.Tensor]:
        places = range(number * CHUNK, min((number + 1) * CHUNK, count))
        found, length_N = counterfactual_pairs(
            run.pair,
            [rows[place % len(rows)] for place in places],
            GainThresholdRule(head, thresholds),
            run.metric,
            seed=run.draws(number),
            batch_size=config.batch_size,
            max_new_tokens=config.max_new_tokens,
        )
        return {**vars(found), "length_N": length_N}

    parts = run.parts("pairs", -(-count // CHUNK), make, "paired texts")
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    length_N = joined.pop("length_N")
    if run.metric in OF_A_CORPUS:
        joined["gain_N"] = joined["gain_N"] * length_N / length_N.mean()
    return Pairs(**joined)


@dataclass(frozen=True)
class Fit(FitConfig):
    """The settings of the fit of `shift`."""

    epochs: int = 10
    batch: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 1.0
    """Strong: most of what is fitted is luck."""
    rise: float = 0.1


ROUNDING = 1e-6
"""Of a number in float32, with a margin."""


def fit_pairs(head: DeferralHead, pairs: Pairs, settings: Fit) -> dict[str, float]:
    """Fit `shift(s, b)` in place, so that the gain predicts a call's gain in the metric; return the diagnostics.

    Minimises the mean of `(base(s) + shift(s, b) - gain / kappa)^2`, half of which is the squared difference of both
    actions' residuals. `kappa`, points of the metric for a nat of predicted regret, is the least-squares slope of the
    gains on the base, so that gains and prices stay in nats. Where the fit foretells the pairs held out no better than
    the base alone, or calls gain nothing, the shift stays 0.

    Args:
        head: Its base is fitted; only the shift is trained.
        pairs: States and gains, in points.
        settings: Of the fit.
    """
    held_N = torch.arange(len(pairs.gain_N)) % HELD == HELD - 1
    with torch.no_grad():
        base_N = head.gain(pairs.features_NF, torch.zeros_like(pairs.gain_N))
    kappa = _slope(base_N[~held_N], pairs.gain_N[~held_N])
    figures = {
        "pairs": float(len(held_N)),
        "points_per_nat": kappa,
        "held_out_r2_base": _explained(base_N, pairs, held_N),
    }
    if kappa <= 0:
        return figures
    before = {name: value.clone() for name, value in head.shift.state_dict().items()}
    _descend(head, pairs, pairs.gain_N / kappa, (~held_N).nonzero().squeeze(-1), settings)
    with torch.no_grad():
        gain_N = head.gain(pairs.features_NF, pairs.budget_N)
    figures["held_out_r2"] = _explained(gain_N, pairs, held_N)
    if not figures["held_out_r2"] > figures["held_out_r2_base"]:
        head.shift.load_state_dict(before)
    return figures


def _descend(head: DeferralHead, pairs: Pairs, target_N: torch.Tensor, fitted: torch.Tensor, settings: Fit) -> None:
    """Fit the shift to targets in nats."""
    unit = target_N[fitted].std().clamp(min=1e-6)
    parameters = list(head.shift.requires_grad_(True).parameters())

    def loss(batch: torch.Tensor) -> torch.Tensor:
        places = fitted[batch]
        gain_N = head.gain(pairs.features_NF[places], pairs.budget_N[places])
        return ((gain_N - target_N[places]) / unit).square().mean()

    smaller = replace(settings, batch=min(settings.batch, max(1, len(fitted) // LEAST_STEPS)))
    fit(parameters, loss, len(fitted), smaller, name="paired texts")


def _slope(base_N: torch.Tensor, gain_N: torch.Tensor) -> float:
    """Return the least-squares slope of the gains on the base; 0 of a base that is the same everywhere.

    Rounding does not count as a difference: the mean of equal numbers may differ from them in its last digit.
    """
    centred_N = base_N - base_N.mean()
    if float(centred_N.abs().max()) <= ROUNDING * float(base_N.abs().max()):
        return 0.0
    return float((centred_N * gain_N).sum() / centred_N.square().sum().clamp(min=1e-9))


def _explained(gain_N: torch.Tensor, pairs: Pairs, held_N: torch.Tensor) -> float:
    """Return the squared correlation of predicted and true gains on the held-out pairs."""
    both = torch.stack([gain_N[held_N], pairs.gain_N[held_N]])
    return float(torch.corrcoef(both)[0, 1].nan_to_num(0.0).square())
