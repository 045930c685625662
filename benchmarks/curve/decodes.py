"""What a curve decodes: every rule, seed and budget, under calibrated thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.cell import STUDENT_END, TEACHER_END, PointKey
from wheels.benchmarks.core.decodes import Decode, depends_on
from wheels.benchmarks.curve.config import CurveConfig
from wheels.config.fields import loading_of, weights_of
from wheels.data.tasks import Row, digest, load_task
from wheels.decoding.commands import calibrate
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.commands.calibration_hint import calibration_hint
from wheels.decoding.commands.teachers import pair_loader
from wheels.decoding.methods.calibrated import calibrated, known_rules, levels_of, threshold_of
from wheels.decoding.methods.method import deferral
from wheels.decoding.methods.online import RATE
from wheels.decoding.methods.rules import KNOWN_RATE, RULE_NAMES, RULES, find_rules
from wheels.decoding.models.backends import use_backend
from wheels.decoding.params import DecodeParams
from wheels.errors import WheelsError
from wheels.json_text import json_digest
from wheels.models.artefact import EMBEDDED, Artefact
from wheels.models.student_pair import StudentPair
from wheels.policy.calibration import Calibration
from wheels.threads import set_threads


@dataclass(frozen=True)
class CurvePlan:
    """What is to be decoded, by which model."""

    artefact: Artefact
    model_digest: str
    seeds: dict[str, list[int]]
    thresholds: dict[PointKey, float | None]
    """The decodes in their order, both ends first, with their thresholds; an end has none."""
    notes: list[str]
    """What a reader must know."""


def rows_digest(rows: Sequence[Row]) -> str:
    """Return the digest of rows, independent of the name of their split, as a calibration notes it."""
    return digest({"": rows})


def load_artefact(config: CurveConfig) -> Artefact:
    """Return the model that is to be measured."""
    use_backend(config.backend)
    load, teacher = pair_loader(config)
    artefact = Artefact.of_student(config.model, teacher, load_pair=load, **loading_of(config))
    set_threads(config.threads, artefact.pair)
    return artefact


def make_plan(config: CurveConfig, data_digest: str) -> CurvePlan:
    """Load the model, calibrate it where that is asked for, and return what is to be decoded.

    `data_digest` is the `rows_digest` of the whole split that is scored.

    Raises:
        WheelsError: where a rule has no head or no threshold, or thresholds come from the scored rows.
    """
    artefact = load_artefact(config)
    left_out = ""
    if config.rules is None:
        config, left_out = default_rules(config, artefact)
    config = replace(config, rules=find_rules(config.rules or ()))
    _check_rates(config, artefact)
    seeds, notes = seeds_of(config, artefact)
    notes += [left_out] if left_out else []
    if config.calibration_data is not None:
        _calibrate_on(config, artefact, seeds, data_digest)
    if config.prompt is not None:
        artefact.pair.read_by(config.prompt)
    return CurvePlan(artefact, artefact.digest, seeds, _thresholds(config, artefact, seeds, data_digest), notes)


def _check_rates(config: CurveConfig, artefact: Artefact) -> None:
    """Raise a `WheelsError` for a rule whose rate of calls is its budget, where a call buys several tokens."""
    pair, rates = artefact.pair, [rule for rule in config.rules or () if rule in KNOWN_RATE]
    if rates and config.interior_budgets and isinstance(pair, StudentPair) and pair.most_per_call != 1:
        raise WheelsError(
            f"rule {rates[0]!r} keeps its budget by calls of one token, and {pair.teacher_told}; leave it out of "
            "--rules"
        )


def default_rules(config: CurveConfig, artefact: Artefact) -> tuple[CurveConfig, str]:
    """Return the settings with every rule that can be measured, and a note on the others.

    That is all it has heads for; of these, where no calibration is going to be made, those that have thresholds. A
    model without any calibration keeps them all, so that what is missing is said.
    """
    known = known_rules(artefact)
    kept = {*KNOWN_RATE, *(point.rule for point in artefact.calibration.points)}
    if artefact.calibration.points and config.calibration_data is None:
        known = tuple(rule for rule in known if rule in kept)
    lacking = [rule for rule in RULE_NAMES if rule not in known]
    note = f"not measured, for want of a trained head, thresholds or logits: {', '.join(lacking)}" if lacking else ""
    return replace(config, rules=known), note


def seeds_of(config: CurveConfig, artefact: Artefact) -> tuple[dict[str, list[int]], list[str]]:
    """Return the seeds that each rule is decoded with, and a note where fewer were trained than asked for.

    Rules that nothing is drawn or trained for give one output whatever the seed, and are decoded once.

    Raises:
        WheelsError: where a trained rule has no head at all.
    """
    seeds, notes = {}, []
    for rule in config.rules or ():
        count = config.seeds if RULES[rule].seeded else 1
        if RULES[rule].head is not None:
            trained = len(artefact.heads.get(rule, []))
            if not trained:
                raise WheelsError(
                    f"{config.model or 'the embedded pair'} has no trained head for rule {rule!r}; "
                    "leave it out of --rules"
                )
            if trained < count:
                notes.append(f"{rule} was trained with {trained} of the {count} seeds asked for")
                count = trained
        seeds[rule] = list(range(count))
    return seeds, notes


def _calibrate_on(config: CurveConfig, artefact: Artefact, seeds: dict[str, list[int]], data_digest: str) -> None:
    """Give the artefact a calibration on `config.calibration_data`, made now unless it is there already.

    It is kept beside the results: the model's folder stays as it is.
    """
    shared = (
        "teacher", "teacher_model", "teacher_key", "teacher_prompt", "span", "source", "target", "bad_rows",
        "max_new_tokens", "batch_size", "max_tokens_in_flight", "device", "dtype", "threads", "backend",
        "student_weights", "teacher_weights", "teacher_device", "teacher_quantization",
    )  # fmt: skip
    settings = CalibrateConfig(
        model=config.model or EMBEDDED,
        data=str(config.calibration_data),
        # The ends of the range too: between them any budget can be interpolated.
        budgets=tuple(sorted({*CalibrateConfig(model="", data="").budgets, *config.interior_budgets})),
        limit=config.calibration_limit,
        rules=tuple(RULES[rule].given for rule in seeds),
        seeds=max(map(len, seeds.values())),
        **{name: getattr(config, name) for name in shared},
    )
    task = load_task(
        settings.data, source=settings.source, target=settings.target, require_target=False, bad_rows=settings.bad_rows
    )
    wanted = rows_digest(task.rows(settings.split))
    refuse_scored(wanted, data_digest)
    path = Path(config.output) / "calibration.json"
    for found in (artefact.calibration, Calibration.load(path)):
        artefact.calibration = found
        of_this = found.data_digest == wanted and found.model_digest in ("", artefact.digest)
        if of_this and settings.limit in (None, found.config.get("limit")) and not _missing(config, artefact, seeds):
            return
    artefact.calibration = calibrate.measure(artefact, settings)
    artefact.calibration.save(path)


def refuse_scored(calibrated_on: str | None, data_digest: str, *, what: str = "thresholds were calibrated") -> None:
    """Raise where rows were calibrated on (or tuned on) that are going to be scored."""
    if calibrated_on == data_digest:
        raise WheelsError(
            f"the {what} on the very rows that are to be scored, and nothing is calibrated on the "
            "split it is scored on; use other rows for it, or score others"
        )


def _inner_keys(config: CurveConfig, seeds: dict[str, list[int]]) -> list[PointKey]:
    """Return the decodes between the ends."""
    rules = [(rule, seed) for rule in seeds for seed in seeds[rule]]
    return [PointKey(rule, seed, budget) for rule, seed in rules for budget in config.interior_budgets]


def _missing(config: CurveConfig, artefact: Artefact, seeds: dict[str, list[int]]) -> list[PointKey]:
    """Return the decodes that have no threshold."""
    missing = []
    for key in _inner_keys(config, seeds):
        try:
            threshold_of(artefact.calibration, RULES[key.rule], key.budget, key.seed, config.mode)
        except WheelsError:
            missing.append(key)
    return missing


def _thresholds(
    config: CurveConfig, artefact: Artefact, seeds: dict[str, list[int]], data_digest: str
) -> dict[PointKey, float | None]:
    """Return what is to be decoded, each with its threshold: both ends, then rule by rule."""
    if missing := _missing(config, artefact, seeds):
        shown = ", ".join(f"{key.rule} (seed {key.seed}) at {key.budget:g}" for key in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        rules, budgets = {RULES[key.rule].given: None for key in missing}, sorted({key.budget for key in missing})
        wanted = None if config.mode == "online" else budgets
        hint = calibration_hint(artefact, list(rules), wanted, max(key.seed for key in missing))
        raise WheelsError(f"not calibrated: {shown}{more}{hint}; or name data that is not scored by --calibration-data")
    keys = _inner_keys(config, seeds)
    if keys:
        refuse_scored(artefact.calibration.data_digest, data_digest)
    thresholds: dict[PointKey, float | None] = {STUDENT_END: None, TEACHER_END: None}
    found = artefact.calibration
    return thresholds | {key: threshold_of(found, RULES[key.rule], key.budget, key.seed, config.mode) for key in keys}


def decodes_of(config: CurveConfig, plan: CurvePlan, data_digest: str, rows: int) -> dict[PointKey, Decode]:
    """Return every decode, in order."""
    decodes = {}
    for key in plan.thresholds:
        # An end is a budget of 0 or 1, which never and always call, whatever the rule; this one reads nothing.
        name = "random" if key in (STUDENT_END, TEACHER_END) else key.rule
        rule = calibrated(plan.artefact, name, key.budget, key.seed, config.mode)
        params = DecodeParams(max_new_tokens=config.max_new_tokens, seed=key.seed)
        made_from = signature_of(config, plan, key, data_digest, rows)
        method = deferral(rule, key.budget, config.mode)
        decodes[key] = Decode(f"{key.rule} at {key.budget:g}", method, params, made_from)
    return decodes


def points_digest(config: CurveConfig, plan: CurvePlan, data_digest: str) -> str:
    """Return the digest of all that the outputs depend on: models, heads, thresholds, rows and settings."""
    return json_digest([signature_of(config, plan, key, data_digest, 0) for key in plan.thresholds])


def signature_of(config: CurveConfig, plan: CurvePlan, key: PointKey, data_digest: str, rows: int) -> dict[str, Any]:
    """Return everything that the outputs of a decode depend on.

    In online mode all rows move the threshold, and the batch size counts too.
    """
    moves: dict[str, Any] = {}
    if config.mode == "online" and 0 < key.budget < 1:
        levels = levels_of(plan.artefact.calibration, RULES[key.rule], key.seed)
        moves = {"levels": [list(point) for point in levels], "rate": RATE}
    moves |= {name: kind for name, kind in weights_of(config).items() if kind != "float32"}
    if moves:
        moves["batch_size"] = config.batch_size
        moves |= {"max_tokens": config.max_tokens_in_flight} if config.max_tokens_in_flight else {}
    shared = depends_on(config, plan.artefact, RULES.get(key.rule), key.seed, data_digest, rows)
    return (
        shared
        | moves
        | {
            "model": plan.model_digest,
            "head": plan.artefact.head_digest(key.rule, key.seed),
            "threshold": plan.thresholds[key],
            "rule": key.rule,
            "seed": key.seed,
            "budget": key.budget,
            "mode": config.mode,
            "prompt": plan.artefact.pair.prompt.noted,
        }
    )
