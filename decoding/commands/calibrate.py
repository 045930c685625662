"""`wheels calibrate`: find, for each rule and budget, the threshold whose measured use is the budget."""

from __future__ import annotations

import datetime
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wheels.config.fields import loading_of
from wheels.config.parsing import to_dict
from wheels.data.tasks import digest, load_task
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.commands.teachers import pair_loader
from wheels.decoding.memory import rows_for
from wheels.decoding.methods.calibrated import known_rules, rule_of
from wheels.decoding.methods.method import deferral
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import KNOWN_RATE, find_rule, find_rules
from wheels.decoding.models.backends import use_backend
from wheels.decoding.params import DecodeParams
from wheels.decoding.step import Step
from wheels.decoding.streaming import decode
from wheels.decoding.trace import teacher_use
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact, check_model
from wheels.models.loading import set_loading
from wheels.models.pair import Pair
from wheels.models.readable import readable_rows
from wheels.output.notices import Pace
from wheels.output.tables import Column, Table, columns
from wheels.own_code import whole_place
from wheels.policy.calibration import Calibration, Point
from wheels.runs import LOCK, chunks, locked
from wheels.threads import set_threads

log = logging.getLogger("wheels")

TOLERANCE = 0.003
"""A threshold is good when its use is this near to the budget."""
KEPT = ".calibrating"
"""The folder of the thresholds of each rule, beside `calibration.json`, until all are there."""
ROUNDS = 6
"""Decodes that a budget may take at most."""


class Recording:
    """A rule that keeps the scores of the states that it saw."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.name, self.needs_teacher = rule, rule.name, rule.needs_teacher
        self.scores: list[torch.Tensor] = []

    def __call__(self, step: Step) -> torch.Tensor:
        """Decide as the rule does."""
        score_B = self.rule.scored(step)
        self.scores.append(score_B.float().cpu())
        return score_B > self.rule.threshold


@dataclass
class Bracket:
    """Thresholds that a budget's own lies between, with the use that each was measured to give."""

    budget: float
    low: float = float("-inf")
    high: float = float("inf")
    use_low: float = 1.0
    """At `low`, which calls too often."""
    use_high: float = 0.0
    """At `high`, which calls too seldom."""

    def guess(self, score_N: torch.Tensor) -> float | None:
        """Return the next threshold to try, given the finite scores on the last path; None where none is left.

        The quantile `1 - budget` of the scores, where that lies within. Else use is taken to fall from `low` to `high`
        in step with the rank of the scores between them: a score is not always one token (the router's is a text).
        """
        guess = score_N.quantile(1.0 - self.budget).item() if len(score_N) else float("nan")
        if self.low < guess < self.high:
            return guess
        between_M = score_N[(score_N > self.low) & (score_N < self.high)]
        if len(between_M):
            return between_M.quantile((self.use_low - self.budget) / (self.use_low - self.use_high)).item()
        middle = (self.low + self.high) / 2
        return middle if self.low < middle < self.high and abs(middle) < float("inf") else None

    def narrow(self, threshold: float, use: float) -> None:
        """Take in what a threshold gave."""
        if use > self.budget:
            self.low, self.use_low = threshold, use
        else:
            self.high, self.use_high = threshold, use


def run(config: CalibrateConfig) -> None:
    """Calibrate a model's folder; see `CalibrateConfig`."""
    use_backend(config.backend)
    check_model(Path(config.model))
    with locked(Path(config.model) / LOCK, config.model):
        calibrate_model(config)


def calibrate_model(config: CalibrateConfig) -> None:
    """Measure thresholds, and put them beside those that the model's folder holds; it is locked by the caller.

    Raises:
        WheelsError: where those that would stay were measured otherwise.
    """
    set_loading(attn_implementation=config.attn_implementation, trust_remote_code=config.trust_remote_code)
    load, teacher = pair_loader(config)
    artefact = Artefact.load(config.model, teacher=teacher, load_pair=load, **loading_of(config))
    set_threads(config.threads, artefact.pair)
    path = Path(config.model) / "deferral" / "calibration.json"
    found = measure(artefact, config, beside=artefact.calibration, place=path)
    print(as_table(found.points))
    others = artefact.calibration.others(point.key for point in found.points)
    code = artefact.calibration.config.get("code", {}) | found.config.get("code", {})
    found.config |= {"code": code} if code else {}
    replace(found, points=[*others, *found.points]).save(path)
    shutil.rmtree(path.with_name(KEPT), ignore_errors=True)
    print(f"written to {path}" + (f", beside {len(others)} other thresholds" if others else ""))


def measure(
    artefact: Artefact, config: CalibrateConfig, *, beside: Calibration | None = None, place: Path | None = None
) -> Calibration:
    """Return the thresholds of a model that a configuration asks for.

    Args:
        artefact: the model.
        config: how; its `model` is not looked at.
        beside: thresholds that these are going to stand beside.
        place: of their file; those of each rule are kept beside it, so that a killed run goes on behind it.

    Raises:
        WheelsError: where no rule needs a threshold, or those of `beside` that would stay were measured otherwise.
    """
    task = load_task(
        config.data, source=config.source, target=config.target, require_target=False, bad_rows=config.bad_rows
    )
    rows = task.rows(config.split)[: config.limit]
    rows = readable_rows(artefact.pair, rows, f"{task.name}: {config.split}", config.bad_rows)
    budgets = [budget for budget in config.budgets if 0 < budget < 1]
    scorers = list(chosen_rules(artefact, find_rules(config.rules or known_rules(artefact)), config.seeds))
    if not scorers or not budgets:
        raise WheelsError(
            f"nothing to calibrate: {', '.join(KNOWN_RATE)} and the budgets 0 and 1 need no threshold; "
            "give other --rules or --budgets"
        )
    calibration = Calibration(
        data=f"{task.name}:{config.split}",
        data_digest=digest({"": task.rows(config.split)}),
        rows=len(rows),
        date=datetime.date.today().isoformat(),
        model_digest=artefact.digest,
        config=to_dict(anywhere(config)) | code_of(rule for rule, _ in scorers),
    )
    if beside is not None and beside.others((rule.name, seed, b) for rule, seed in scorers for b in budgets):
        _check_alike(beside, calibration, str(place or "what is kept"))
    log.info("calibrating %s", effort(len(scorers), len(budgets), len(rows)))
    sources, longest = [row.source for row in rows], config.max_new_tokens
    size = rows_for(artefact.pair, sources, longest, config.batch_size, config.max_tokens_in_flight)
    calibration.points += points_of(
        artefact.pair,
        sources,
        scorers,
        budgets,
        batch_size=size,
        max_new_tokens=longest,
        kept=None if place is None else place.with_name(KEPT),
        made_from=[asdict(replace(calibration, date="")), *(_origin(artefact, *scorer) for scorer in scorers)],
    )
    return calibration


def _check_alike(beside: Calibration, calibration: Calibration, name: str) -> None:
    """Raise a `WheelsError` that names the file where its thresholds were measured otherwise."""
    try:
        beside.check_alike(calibration)
    except WheelsError as error:
        raise WheelsError(f"{name} {error}; calibrate all of its rules and budgets, or remove it") from None


def _origin(artefact: Artefact, rule: Rule, seed: int) -> list[Any]:
    """Return what the thresholds of a rule are known by, beside the settings of all."""
    return [rule.name, seed, artefact.head_digest(rule.name, seed) if rule.head is not None else None]


def decodes(rules: int, budgets: int) -> tuple[int, int]:
    """Return the fewest and the most decodes of a calibration: one for each rule and seed, then for each budget."""
    return rules * (1 + budgets), rules * (1 + ROUNDS * budgets)


def effort(rules: int, budgets: int, rows: int) -> str:
    """Return what a calibration takes."""
    few, many = decodes(rules, budgets)
    return f"{rules * budgets} thresholds ({rules} x {budgets} budgets): {few} to {many} decodes of {rows} rows"


def points_of(
    pair: Pair,
    sources: Sequence[str],
    rules: Sequence[tuple[Rule, int]],
    budgets: Sequence[float],
    *,
    batch_size: int,
    max_new_tokens: int,
    kept: Path | None = None,
    made_from: Any = None,
) -> Iterator[Point]:
    """Yield the thresholds of all rules and seeds, with a bar and a word on the time that they take.

    Those of a rule and seed are kept in the folder `kept`, with what they were `made_from` (`wheels.runs.chunks`).
    """
    pace = Pace(len(rules) * len(budgets), "thresholds")
    with tqdm(total=pace.parts, desc="calibrating", unit="threshold", file=sys.stderr) as bar:

        def make(number: int) -> list[dict[str, Any]]:
            found, start = [], time.perf_counter()
            for point in calibrate(
                pair, sources, rules[number][0], budgets, rules[number][1], batch_size, max_new_tokens
            ):
                now = time.perf_counter()
                pace.add(now - start)
                start = now
                bar.update()
                found.append(asdict(point))
            return found

        numbers = range(len(rules))
        for number, points in enumerate(chunks(kept, made_from, numbers, make) if kept else map(make, numbers), 1):
            bar.update(number * len(budgets) - bar.n)  # of what was kept
            yield from (Point(**point) for point in points)


def code_of(rules: Iterable[Rule]) -> dict[str, dict[str, str]]:
    """Return the digests of the files that rules of the user's own were read from; nothing where there are none."""
    code = {rule.name: rule.code for rule in rules if rule.code}
    return {"code": code} if code else {}


def anywhere(config: CalibrateConfig) -> CalibrateConfig:
    """Return the configuration with whole paths, so that it means the same in every folder."""
    teacher = config.teacher and (os.path.abspath(config.teacher) if Path(config.teacher).exists() else config.teacher)
    data = os.path.abspath(config.data) if Path(config.data).exists() else config.data
    rules = config.rules and tuple(whole_place(rule) for rule in config.rules)
    return replace(config, data=data, teacher=teacher, rules=rules)


def chosen_rules(artefact: Artefact, rules: Sequence[str | Rule], seeds: int) -> Iterator[tuple[Rule, int]]:
    """Yield the rules to calibrate with their seeds: trained ones once for each head, others once.

    Raises:
        WheelsError: where a trained rule has no head.
    """
    for given in rules:
        rule = find_rule(given) if isinstance(given, str) else given
        trained = len(artefact.heads.get(rule.name, []))
        if rule.head is not None and not trained:
            raise WheelsError(f"rule {rule.name!r} has no trained head in this model; leave it out of --rules")
        for seed in range(min(seeds, trained) if rule.head is not None else 1):
            if not rule.known_rate:
                yield rule_of(artefact, rule, seed), seed


def calibrate(
    pair: Pair,
    sources: Sequence[str],
    rule: Rule,
    budgets: Sequence[float],
    seed: int = 0,
    batch_size: int = 64,
    max_new_tokens: int = 128,
) -> Iterator[Point]:
    """Yield a point for each budget.

    Use depends on the threshold through the texts that it leads to, so the threshold is found by decoding: a guess is
    the score's quantile on the path of the decode before (at first one that never calls; then the budget before), and
    where that does not close in, one between the thresholds known to give too much and too little (`Bracket`).

    Args:
        pair: Both models.
        sources: The texts to measure on.
        rule: What is calibrated.
        budgets: Shares in (0, 1), in rising order.
        seed: Written into the points.
        batch_size: As in `decode`.
        max_new_tokens: As in `decode`.
    """
    params = DecodeParams(max_new_tokens=max_new_tokens)

    def measure(threshold: float, budget: float) -> tuple[float, torch.Tensor]:
        """Return the use that a threshold gives, and the scores on its path that a threshold can lie between."""
        recording = Recording(rule.at(threshold))
        traces = decode(pair, sources, deferral(recording, budget), params, batch_size=batch_size)
        score_N = torch.cat(recording.scores)
        return teacher_use(traces), score_N[score_N.isfinite()]

    score_N = measure(float("inf"), budgets[0])[1] if budgets else torch.empty(0)
    for budget in budgets:
        best = Point(rule.name, seed, budget, 0.0, float("inf"))
        bracket = Bracket(budget)
        for _ in range(ROUNDS):
            guess = bracket.guess(score_N)
            if guess is None:
                break
            use, score_N = measure(guess, budget)
            if abs(use - budget) < abs(best.use - budget):
                best = Point(rule.name, seed, budget, guess, use)
            if abs(use - budget) <= TOLERANCE:
                break
            bracket.narrow(guess, use)
        yield best


def as_table(points: Sequence[Point]) -> str:
    """Return the points as a table for a terminal."""
    shown = [*columns("rule", "seed"), Column("budget", show="{:.3f}".format)]
    shown += [Column("threshold", show="{:.5g}".format), Column("use", show="{:.4f}".format)]
    return Table.of(shown, points).text()
