"""The method that a call of `hf_generate` asks for: a `Method`, or a rule with a budget or a threshold."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from wheels.decoding.hf.pair import GeneratePair, trained_folder
from wheels.decoding.methods.calibrated import calibrated, rule_of
from wheels.decoding.methods.method import Method, deferral
from wheels.decoding.methods.rule import AnyRule, Rule
from wheels.errors import WheelsError, check_kind, check_number
from wheels.files import read_object
from wheels.models.artefact import Artefact, pair_heads
from wheels.policy.calibration import Calibration
from wheels.policy.head import HeadConfig


def method_of(
    pair: GeneratePair,
    method: Method | None = None,
    rule: str | AnyRule | None = None,
    threshold: float | None = None,
    budget: float | None = None,
    mode: str = "average",
) -> Method:
    """Return how to decode; see `hf_generate`.

    Raises:
        WheelsError: for arguments that do not go together, or a rule without a threshold.
    """
    if isinstance(rule, Method):
        raise WheelsError(f"{rule.name!r} is a method, not a rule; give it as method=...")
    if threshold is not None:
        _one_knob(check_number("threshold", threshold, -math.inf, math.inf), budget, mode)
    if method is not None:
        check_kind("method", method, Method, "a Method (wheels.decoding.methods.method); a rule is given as rule=")
        if rule is not None or threshold is not None:
            raise WheelsError(f"method {method.name!r} says itself when to call; leave rule= and threshold=")
        if method.rule is None and budget is not None:
            raise WheelsError(f"method {method.name!r} verifies every draft and has no budget; leave teacher_budget=")
    elif isinstance(rule, str) or rule is None:
        return deferral(_named_rule(pair, rule, threshold, budget, mode), budget, mode)
    else:
        return deferral(rule if threshold is None else _threshold_rule(rule).at(threshold), budget, mode)
    return method if budget is None else replace(method, budget=budget, mode=mode)


def _one_knob(threshold: float, budget: float | None, mode: str) -> None:
    """Refuse a budget beside a threshold set by hand; only strict mode keeps both."""
    if budget not in (None, 0, 1) and mode != "strict":
        raise WheelsError(
            f"threshold {threshold:g} decides alone, and teacher_budget={budget} would not be kept; give one of them, "
            "or budget_mode='strict'"
        )


def _threshold_rule(rule: AnyRule) -> Rule:
    """Return a rule that a threshold can be given to."""
    if not isinstance(rule, Rule):
        raise WheelsError(f"rule {rule.name!r} has no threshold to set; leave threshold=")
    return rule


def _named_rule(pair: GeneratePair, name: str | None, threshold: float | None, budget: float | None, mode: str) -> Rule:
    """Return a rule by name, at the threshold given or calibrated."""
    folder = trained_folder(pair.student)
    artefact = Artefact(pair, {}, Calibration()) if folder is None else read_deferral(pair, folder)
    name = name if name is not None else "maxprob" if folder is None else "learned"
    rule = rule_of(artefact, name)
    if threshold is not None:
        return rule.at(threshold)
    if budget is None:
        raise WheelsError("nothing says when to call; give teacher_budget=... in [0, 1], threshold=... or method=...")
    try:
        return calibrated(artefact, name, budget, mode=mode)
    except WheelsError as error:
        raise WheelsError(f"{error}, or give threshold=...") from None


def read_deferral(pair: GeneratePair, folder: Path) -> Artefact:
    """Read the heads and thresholds in a student's folder, for models in memory.

    Raises:
        WheelsError: where it is damaged.
    """
    path = folder / "deferral" / "config.json"
    try:
        config = read_object(path, "head")
        shape = HeadConfig(**config["head"])
    except (KeyError, TypeError) as error:
        raise WheelsError(f"{path}: damaged at 'head'; train again") from error
    heads = pair_heads(folder, shape, pair)
    return Artefact(pair, heads, Calibration.load(folder / "deferral" / "calibration.json"), config)
