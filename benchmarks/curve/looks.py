"""How each rule is drawn and called in the pictures of a curve, and which rules stand out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wheels.benchmarks.core.style import DASHED, HEAVY, PLAIN, THIN, Look, Weight
from wheels.benchmarks.curve.summary import TRIVIAL
from wheels.decoding.methods.rules import BUILT_IN, RULES, TRAINED


def look(rule: str) -> Look:
    """Return how a rule is drawn: as its record says; one of another program's, known by its name alone, in grey."""
    record = RULES.get(rule)
    if record is None:
        return Look(rule)
    label = f"{rule}: {record.label}" if record.label else rule
    return Look(label, record.color, record.mark, DASHED if record.needs_teacher else "-")


def weight(found: Mapping[str, Any], rule: str) -> Weight:
    """Return how much a rule is to be seen: the trained one, the best threshold and random calls stand out."""
    if rule in main_rules(found):
        return HEAVY
    return PLAIN if rule == "foresight" else THIN


def main_rules(found: Mapping[str, Any]) -> list[str]:
    """Return the rules that answer the question: the trained one, the best threshold, random calls, and one's own."""
    rules = found["rules"]
    trained = [rule for rule in TRAINED if rule in rules][:1]
    best = sorted((rule for rule in TRIVIAL if rule in rules), key=lambda rule: -area(found, rule))[:1]
    built_in = {rule.name for rule in BUILT_IN}
    return [*trained, *best, *(rule for rule in rules if rule == "random" or rule not in built_in)]


def area(found: Mapping[str, Any], rule: str) -> float:
    """Return a rule's area under the share of the gap up to use 0.3; 0 where it was not measured."""
    return found["apgr"][rule]["0-0.3"] or 0.0


def by_seed(found: Mapping[str, Any], rule: str) -> list[list[Mapping[str, Any]]]:
    """Return a rule's points between the ends, a list for each seed, in order of budgets."""
    points = [point for point in found["points"] if point["rule"] == rule and 0.0 < point["budget"] < 1.0]
    ordered = sorted(points, key=lambda point: point["budget"])
    return [[point for point in ordered if point["seed"] == seed] for seed in found["seeds"][rule]]
