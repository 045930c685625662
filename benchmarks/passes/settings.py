"""Decoding methods of `wheels bench passes`: families, their settings, and the curves that these form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey
from wheels.benchmarks.curve.resampled import per_token
from wheels.benchmarks.passes.config import PassesConfig
from wheels.data.tasks import Row
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.method import (
    Method,
    bild,
    cascade,
    deferral,
    priced,
    prompt_lookup,
    speculative,
    take_back,
    verified,
)
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES, find_rule
from wheels.metrics import score
from wheels.models.artefact import Artefact

TOLERANCES = (4.0, 2.0, 1.0, 0.5)
"""Nats of regret beyond which a token is taken back."""
LONGEST = (None, 16, 8)
"""Student tokens after which a row calls anyway, as far as the sweep tries them; None: no limit."""
SWEPT = ("deferral", "verified", "verified-all", "priced", "take-back")
"""The families whose settings the sweep tries."""
RULED = ("deferral", "verified", "verified-all", "priced", "tuned")
"""The families that a rule and its budget drive."""
ALONE = "alone"


@dataclass(frozen=True)
class Setting:
    """One way of decoding."""

    family: str
    """The family that it belongs to."""
    label: str
    """Its setting, such as `budget 0.2, 2 nats`."""
    method: Method
    line: str
    """The curve over passes that it lies on: settings of one line differ in one knob, or were chosen together."""
    seed: int | None = None
    """The trained head that it reads; None: none, and the setting stands on the line of every seed."""
    tolerance: float | None = None
    """How far the draft is trusted, as `wheels generate --tolerance` takes it; None where the sweep tries nothing."""

    @property
    def budget(self) -> float | None:
        """The teacher budget that is asked for; None where none is kept."""
        return self.method.budgets[0] if self.method.budgets else None

    @property
    def name(self) -> str:
        """The family and the setting; a tuned setting has the name of the one that was chosen."""
        return self.label if self.family == "tuned" else f"{self.family}, {self.label}"

    @property
    def key(self) -> PointKey:
        """The name of its decode."""
        if self.label == ALONE:
            return STUDENT_END if self.family == STUDENT_END.rule else TEACHER_END
        words = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in self.name.replace(", ", "-"))
        return PointKey(words, self.seed or 0, -1.0 if self.budget is None else self.budget)


def ends() -> list[Setting]:
    """Return the student alone and the teacher alone."""
    both = (STUDENT_END, TEACHER_END)
    return [Setting(end.rule, ALONE, deferral(RULES["random"], end.budget), end.rule) for end in both]


def seeds_of(config: PassesConfig, artefact: Artefact) -> tuple[list[int | None], list[str]]:
    """Return the trained seeds of the rule, and notes for the reader."""
    rule = find_rule(config.rule)
    if rule.head is None:
        left_out = "priced" in config.families and not rule.in_nats
        return [None], [f"priced is left out: thresholds of {rule.name} are no nats"] if left_out else []
    trained = max(1, len(artefact.heads.get(config.rule, [])))  # where there is none, the rule itself says so
    fewer = f"{config.rule} was trained with {trained} of the {config.seeds} seeds asked for"
    return list(range(min(config.seeds, trained))), [fewer] if trained < config.seeds else []


def settings_of(config: PassesConfig, artefact: Artefact) -> list[Setting]:
    """Return the settings of every family asked for; none is chosen by its score."""
    settings = [each for family in config.families if family not in RULED for each in _fixed(family)]
    ruled = [family for family in config.families if family in RULED]
    for seed in seeds_of(config, artefact)[0]:
        rules = _rules(config, artefact, seed) if ruled else {}
        settings += [each for family in ruled for each in _ruled(config, family, rules, seed, config.longest)]
    order = config.families.index
    return sorted(settings, key=lambda setting: (order(setting.family), setting.seed or 0))


def sweep_of(config: PassesConfig, artefact: Artefact, seed: int | None) -> list[Setting]:
    """Return the settings that the sweep tries with one trained seed: when to call, and how far to trust the draft."""
    rules = _rules(config, artefact, seed)
    settings = [
        each
        for family in SWEPT
        for longest in (LONGEST if family not in ("deferral", "take-back") else (None,))
        for each in _ruled(config, family, rules, seed, longest)
    ]
    return settings + [each for draft in (24, 16, 12, 8) for each in _take_back(draft)]


def tuned(settings: Sequence[Setting], chosen: Sequence[str]) -> list[Setting]:
    """Return the settings whose names were chosen, as the family `tuned`."""
    return [replace(each, family="tuned", label=each.name, line="tuned") for each in settings if each.name in chosen]


def _rules(config: PassesConfig, artefact: Artefact, seed: int | None) -> dict[float, Rule]:
    """Return the rule under the threshold of each budget."""
    return {budget: calibrated(artefact, config.rule, budget, seed or 0) for budget in config.budgets}


def _ruled(
    config: PassesConfig, family: str, rules: Mapping[float, Rule], seed: int | None, longest: int | None
) -> Iterator[Setting]:
    """Yield the settings of one family that a rule drives."""
    end = "" if longest is None else f", at most {longest} tokens"
    for budget, rule in rules.items():
        place = f"budget {budget:g}"
        if family == "deferral":
            yield Setting(family, place, deferral(rule, budget), family, seed)
        elif family in ("verified", "verified-all"):
            for nats in TOLERANCES:
                complete = family == "verified-all"
                method = verified(rule, budget, tolerance=nats, complete=complete, draft=longest)
                knob = f"{nats:g} nats{end}"
                yield Setting(family, f"{place}, {knob}", method, f"{family}, {knob}", seed, nats)
        elif family == "priced" and (rule.in_nats or rule.head is not None):
            for scale, complete in ((scale, complete) for scale in config.scales for complete in (False, True)):
                method = priced(rule, budget, scale=scale, draft=longest, complete=complete)
                knob = f"scale {scale:g}{', to the end' if complete else ''}{end}"
                yield Setting(family, f"{place}, {knob}", method, f"{family}, {knob}", seed, scale)


def _fixed(family: str) -> Iterator[Setting]:
    """Yield the settings of one family that no rule and no budget drives."""
    if family == "take-back":
        yield from _take_back(16)
    elif family == "bild":
        for fallback, rollback in ((0.3, 4.0), (0.4, 3.0), (0.5, 3.0), (0.6, 3.0), (0.6, 2.0), (0.8, 2.0)):
            label = f"fallback {fallback:g}, rollback {rollback:g}"
            yield Setting(family, label, bild(fallback, rollback), family)
    elif family == "cascade":
        for kind, alphas in (("opt", (0.1, 0.3, 0.6)), ("token-v3", (0.3, 0.6, 0.9))):
            for alpha in alphas:
                line = f"{family}, {kind}"
                yield Setting(family, f"{kind}, alpha {alpha:g}", cascade(kind, alpha, 8), line)
    elif family == "speculative":
        for draft in (2, 3, 5, 8):
            yield Setting(family, f"drafts of {draft}", speculative(draft), family)
    elif family == "lossy":
        for lenience in (0.5, 0.8, 0.9, 0.95, 0.99):
            label = f"drafts of 8, lenience {lenience:g}"
            yield Setting(family, label, speculative(8, lenience=lenience), family)
    else:
        yield Setting(family, "drafts of 5", prompt_lookup(5), family)


def _take_back(draft: int) -> Iterator[Setting]:
    """Yield drafts of one length that are cut by the teacher's regret alone."""
    for nats in TOLERANCES:
        method = take_back(draft, nats)
        yield Setting("take-back", f"{draft} tokens, {nats:g} nats", method, "take-back", tolerance=nats)


Measure = tuple[float, float]
"""Passes per token, and quality."""


def frontier(points: Sequence[Measure]) -> list[int]:
    """Return which points lie on the upper concave envelope of quality over passes, in rising order of passes.

    From the cheapest point to the best one, each part less steep than the one before; what lies under a chord between
    two others is left out, for a mixture of these two, row by row, is as good at the same cost. Of points that are
    equal the first stands.
    """
    hull: list[int] = []
    for here in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1], index)):
        if hull and points[here][1] <= points[hull[-1]][1]:
            continue
        while len(hull) > 1 and _under(points[hull[-2]], points[hull[-1]], points[here]):
            hull.pop()
        hull.append(here)
    return hull


def _under(left: Measure, middle: Measure, right: Measure) -> bool:
    """Tell whether the middle point lies on or under the chord between the others."""
    (x0, y0), (x1, y1), (x2, y2) = left, middle, right
    return (y1 - y0) * (x2 - x0) <= (y2 - y0) * (x1 - x0)


def choose(
    settings: Sequence[Setting], outputs: Sequence[Sequence[Any]], rows: Sequence[Row], metric: str
) -> list[dict[str, Any]]:
    """Return name, teacher passes per token and quality of each setting; those on the frontier are `chosen`."""
    points, sources, references = [], [row.source for row in rows], [row.scored_against for row in rows]
    for records in outputs:
        quality = score(metric, [record.text for record in records], references, sources).value
        points.append((per_token(records)["passes_per_token"], quality))
    best = set(frontier(points))
    return [
        {"name": each.name, "passes": passes, "quality": quality, "chosen": place in best}
        for place, (each, (passes, quality)) in enumerate(zip(settings, points, strict=True))
    ]
