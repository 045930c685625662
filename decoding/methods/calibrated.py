"""The rules of a model: with its trained heads, and under the thresholds that it was calibrated to."""

from __future__ import annotations

from dataclasses import replace

from wheels.decoding.commands.calibration_hint import calibration_hint
from wheels.decoding.methods.rule import Levels, Rule
from wheels.decoding.methods.rules import BUILT_IN, RULES, HeadScore, find_rule
from wheels.decoding.remote.auto import SpanScore
from wheels.decoding.remote.pair import RemotePair
from wheels.errors import WheelsError, check_budget
from wheels.models.artefact import Artefact
from wheels.models.student_pair import StudentPair
from wheels.policy.calibration import Calibration, NotCalibrated


def rule_of(artefact: Artefact, rule: str | Rule, seed: int = 0) -> Rule:
    """Return a rule of a model: with its head, and under a budget with the threshold that was calibrated to it.

    Raises:
        WheelsError: for an unknown rule, a seed that was not trained, or a rule of another's name.
    """
    record = find_rule(rule) if isinstance(rule, str) else rule
    if record.calibrated is not None:
        return record
    if record.score is None and record.head is not None:
        record = replace(record, score=record.head(artefact.head(record.name, seed)))
    elif any(record.name == own.name and record.score is not own.score for own in BUILT_IN):
        raise WheelsError(f"rule {record.name!r} has the name of one of the package's; give it another name")
    if isinstance(artefact.pair, RemotePair) and artefact.pair.remote.span.chosen:
        record = weighing_spans(artefact, record, seed)
    return replace(record, calibrated=lambda budget, mode: calibrated(artefact, record, budget, seed, mode))


def weighing_spans(artefact: Artefact, rule: Rule, seed: int) -> Rule:
    """Return a rule with a trained head where a call buys as much as pays best.

    Raises:
        WheelsError: for a rule whose gain is not in nats, and a model that was not trained for spans.
    """
    if not rule.in_nats:
        known = [name for name in known_rules(artefact) if RULES[name].in_nats]
        raise WheelsError(
            f"span auto weighs gains in nats, and rule {rule.name!r} has none; use {' or '.join(known)}, or give "
            "span tokens:N"
        )
    if seed >= len(artefact.spans):
        raise WheelsError(
            f"span auto needs what spans gain, and {artefact.folder} was not trained for them; train it by `wheels "
            "train --spans 2,4,8 ...`, or give span tokens:N"
        )
    assert isinstance(rule.score, HeadScore) and isinstance(artefact.pair, RemotePair)
    prices = artefact.pair.remote.ledger.prices
    return replace(rule, score=SpanScore(rule.score, artefact.spans[seed], prices))


def known_rules(artefact: Artefact) -> tuple[str, ...]:
    """Return the rules of the package that a model can be asked for.

    Those are all but those whose head it has not, and those that its teacher tells too little for.
    """
    rules = [rule for rule in BUILT_IN if rule.head is None or artefact.heads.get(rule.name)]
    if isinstance(artefact.pair, StudentPair):
        one = artefact.pair.most_per_call == 1
        rules = [rule for rule in rules if not rule.needs_teacher and (one or not rule.known_rate)]
    return tuple(rule.name for rule in rules)


def calibrated(artefact: Artefact, rule: str | Rule, budget: float, seed: int = 0, mode: str = "average") -> Rule:
    """Return a rule of a model with the threshold that its budget was calibrated to.

    In online mode that is where it starts, and the nearest calibrated one will do; it gets those of other uses too. The
    agent's rule without a calibration calls where the gain exceeds the price that was learned for the budget.

    Raises:
        WheelsError: as `rule_of`, and for a budget that was not calibrated; in online mode for a rule that was not.
    """
    found = rule_of(artefact, rule, seed) if isinstance(rule, str) else rule
    if mode == "average" and 0 < budget < 1:
        check_spans_measured(artefact, found)
    try:
        threshold = threshold_of(artefact.calibration, found, budget, seed, mode)
    except NotCalibrated as error:
        price = artefact.price(found.name, budget, seed) if mode == "average" else None
        if price is not None:
            return found.at(price, budget)
        budgets = None if mode == "online" else [budget]
        raise WheelsError(f"{error}{calibration_hint(artefact, [found.given], budgets, seed)}") from None
    try:
        moves = mode == "online" and 0 < budget < 1
        levels = levels_of(artefact.calibration, found, seed) if moves else found.levels
    except NotCalibrated as error:
        raise WheelsError(f"{error}{calibration_hint(artefact, [found.given], None, seed)}") from None
    return replace(found, levels=levels).at(threshold, budget)


def check_spans_measured(artefact: Artefact, rule: Rule) -> None:
    """Raise a `WheelsError` where calls buy what their text takes, and thresholds were measured with other calls."""
    if artefact.pair.shows_logits or rule.known_rate or artefact.calibration.model_digest == artefact.digest:
        return
    if artefact.pair.by_text:
        raise WheelsError(
            f"the thresholds of {artefact.folder or 'this model'} were measured with another teacher or span, and a "
            "call buys what its text takes; calibrate it with this teacher and span, or use budget_mode online"
        )


def threshold_of(calibration: Calibration, rule: Rule, budget: float, seed: int, mode: str) -> float:
    """Return the threshold of a budget; in online mode that of the nearest one that was calibrated will do.

    Budget 0 is plus infinity (never), budget 1 minus infinity (always). A rule that calls at a known rate needs no
    calibration: its threshold is `1 - budget`.
    """
    check_budget(budget)
    measured = calibration.config.get("code", {}).get(rule.name, rule.code)
    if 0 < budget < 1 and measured != rule.code:
        raise NotCalibrated(f"rule {rule.name!r} was calibrated before {rule.place} changed")
    if rule.known_rate and 0 < budget < 1:
        return 1.0 - budget
    find = calibration.nearest if mode == "online" else calibration.threshold
    return find(rule.name, budget, seed if rule.seeded else 0)


def levels_of(calibration: Calibration, rule: Rule, seed: int) -> Levels:
    """Return what online mode moves along: the line from (0, 1) to (1, 0) for a rule that calls at a known rate."""
    if rule.known_rate:
        return (0.0, 1.0), (1.0, 0.0)
    return calibration.levels(rule.name, seed if rule.seeded else 0)
