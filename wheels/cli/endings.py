"""What a command says when it is done, below its own output: what it wrote, the score, and the command to type next.

Everything is read from what the command left on disk. Only a command that was typed says it: one that another runs as a
stage says nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from wheels.agents.config import TrainConfig
from wheels.annotation.config import AnnotateConfig
from wheels.benchmarks.annotation.config import AnnotationConfig
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.frontier.config import AdviseConfig
from wheels.benchmarks.passes.config import PassesConfig
from wheels.benchmarks.speed.config import SpeedConfig, is_alone
from wheels.benchmarks.study.config import StudyConfig
from wheels.config.parsing import as_command
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.distillation.config import PretrainConfig
from wheels.endpoints.address import is_address
from wheels.errors import WheelsError
from wheels.files import read_object
from wheels.json_text import parse_object
from wheels.rationales.config import RationalesConfig
from wheels.runs import whole_lines

BUDGET = 0.2
"""The teacher budget of the commands that are named next, and of the score of a curve."""


def ending(name: str, config: Any) -> list[str]:
    """Return the last lines of command `name`, which has done what `config` asks for; none where it needs none."""
    return list(ENDINGS[name](config)) if name in ENDINGS else []


def _teacher_of(config: Any) -> dict[str, Any]:
    """Return the options of a command that say which teacher it has."""
    return {name: getattr(config, name) for name in ("teacher", "teacher_model", "teacher_key")}


def _calls_of(config: TrainConfig) -> dict[str, Any]:
    """Return the options that say how a trained model calls: its span, and a teacher at an address."""
    return {"span": config.span} | (_teacher_of(config) if is_address(config.teacher) else {})


def _pretrain(config: PretrainConfig) -> Iterator[str]:
    output, facts = Path(config.output), read_object(Path(config.output) / "finished.json")
    yield f"written to {output} after {facts['steps']} steps"
    if facts.get("value") is not None:
        yield f"{facts['metric']} {facts['value']:.2f} on the validation rows, at step {facts['best_step']}"
    columns: dict[str, Any] = {"data": config.data, "source": config.source, "target": config.target}
    columns |= {name: getattr(config, name) for name in ("prompt", "chat_template", "system_prompt", "template_args")}
    if config.teacher is None:
        student = PretrainConfig(teacher=config.output, objective="kl", output=f"{output}-student", **columns)
        yield _next("a student that learns from it", "pretrain", student)
    else:
        policy = TrainConfig(student=config.output, output=f"{output}-deferral", **_teacher_of(config), **columns)
        yield _next("when to call the teacher", "train", policy)


def _train(config: TrainConfig) -> Iterator[str]:
    shares = []
    with suppress(WheelsError, KeyError, TypeError):  # a log that was damaged since
        for line in whole_lines(Path(config.output) / "metrics.jsonl"):
            if b'"warm_start"' in line:
                shares.append(float(parse_object(line, "metrics.jsonl", "warm_start")["warm_start"]["held_out_r2"]))
    if shares:
        share = statistics.fmean(shares)
        yield f"the warm start explains {share:.1%} of the variance of the regret on states that it did not see"
    if config.calibrate:
        yield from _decoding(config.output, config, config.calibration_rules, config.calibration_budgets)
    else:
        columns: dict[str, Any] = {"data": config.data, "source": config.source, "target": config.target}
        calibrate = CalibrateConfig(model=config.output, **columns, **_calls_of(config))
        yield _next("thresholds", "calibrate", calibrate)


def _calibrate(config: CalibrateConfig) -> Iterator[str]:
    yield from _decoding(config.model, config, config.rules, config.budgets)


def _decoding(
    model: str, config: TrainConfig | CalibrateConfig, rules: Sequence[str] | None, budgets: Sequence[float]
) -> Iterator[str]:
    """Yield what a model is good for that was calibrated for these rules and budgets."""
    columns: dict[str, Any] = {"data": config.data, "source": config.source, "target": config.target}
    if isinstance(config, CalibrateConfig):
        calls = _teacher_of(config) | {"span": config.span, "teacher_prompt": config.teacher_prompt}
    else:
        calls = _calls_of(config)
    curve = CurveConfig(model=model, output=f"{model}-curve", **columns, **calls)
    if not set(curve.interior_budgets) <= set(budgets):
        curve = replace(curve, budgets=(0.0, *budgets, 1.0))
    rule = "learned" if rules is None or "learned" in rules else rules[0]
    budget = min(budgets, key=lambda budget: abs(budget - BUDGET))
    yield _next("text", "generate", GenerateConfig("TEXT", model=model, teacher_budget=budget, rule=rule, **calls))
    yield _next("quality against teacher use, on the test split", "bench curve", curve)


def _advise(config: AdviseConfig) -> Iterator[str]:
    found = read_object(Path(config.output) / "advise.json")
    if found["next"] is not None:
        yield f"next, {found['advice']['parameters']}: {found['next']}"


def _curve(config: CurveConfig) -> Iterator[str]:
    curve = read_object(Path(config.output) / "curve.json")
    ends = {name: curve[name]["quality"] for name in ("student", "teacher")}
    between = [point for point in curve["points"] if 0 < point["budget"] < 1]
    if between:
        rule = "learned" if "learned" in curve["rules"] else curve["rules"][0]
        budget = min({point["budget"] for point in between}, key=lambda budget: abs(budget - BUDGET))
        points = [point for point in between if (point["rule"], point["budget"]) == (rule, budget)]
        quality, use = (statistics.fmean(point[name] for point in points) for name in ("quality", "use"))
        yield (
            f"{rule}: {curve['metrics'][0]} {quality:.1f} at teacher use {use:.3f} "
            f"(student {ends['student']:.1f}, teacher {ends['teacher']:.1f})"
        )
    yield f"next: open {Path(config.output) / 'report.html'} in a browser"
    if is_address(config.teacher):
        return
    columns: dict[str, Any] = {"data": config.data, "source": config.source, "target": config.target}
    passes = PassesConfig(model=config.model, teacher=config.teacher, **columns)
    if not set(passes.budgets) <= set(config.interior_budgets):
        passes = replace(passes, budgets=config.interior_budgets or passes.budgets)
    yield _next("verification beside it", "bench passes", passes)


def _passes(config: PassesConfig) -> Iterator[str]:
    speed = SpeedConfig(model=config.model, teacher=config.teacher, data=config.data if config.model else None)
    yield _next("seconds instead of passes", "bench speed", speed)


def _speed(config: SpeedConfig) -> Iterator[str]:
    for batch in read_object(Path(config.output) / "speed.json")["batches"]:
        timed: list[Mapping[str, Any]] = [
            each for each in batch["contestants"] if not is_alone(each["name"], "student")
        ]
        best = max(timed, key=lambda each: each["speedup"]["median"])
        yield (
            f"batch {batch['batch_size']}: {best['label']} is fastest, {best['speedup']['median']:.2f} x "
            f"{batch['reference']}, the fastest teacher alone"
        )


def _study(config: StudyConfig) -> Iterator[str]:
    model = Path(config.output) / "model"
    if (model / "deferral" / "calibration.json").is_file():
        yield _next("text", "generate", GenerateConfig("TEXT", model=str(model), teacher_budget=BUDGET))


def _annotate(config: AnnotateConfig) -> Iterator[str]:
    labelled = Path(config.output) / "annotated.jsonl"
    if not config.dry_run and labelled.is_file():
        yield f"written to {config.output}: annotated.jsonl, rejected.jsonl, summary.json"
        student = PretrainConfig(data=str(labelled), student=config.student, output=f"{config.output}-student")
        yield _next("a student of these labels", "pretrain", student)


def _bench_annotation(config: AnnotationConfig) -> Iterator[str]:
    yield f"written to {config.output}: annotation.json, annotation.csv, annotation.png, annotation.txt"


def _rationales(config: RationalesConfig) -> Iterator[str]:
    rows = read_object(Path(f"{config.output}.run") / "resolved.json", "rows")["rows"]
    yield f"written to {config.output}: {rows} rows with rationales" + (f"; {config.html}" if config.html else "")
    student = PretrainConfig(data=config.output, rationale=config.column, output=f"{config.output}-student")
    yield _next("a student that learns them too", "pretrain", student)


def _next(what: str, command: str, config: Any) -> str:
    """Name the command that does what comes next."""
    return f"next, {what}: {as_command(f'wheels {command}', config)}"


ENDINGS: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "pretrain": _pretrain,
    "train": _train,
    "calibrate": _calibrate,
    "advise": _advise,
    "bench curve": _curve,
    "bench passes": _passes,
    "bench speed": _speed,
    "bench study": _study,
    "bench annotation": _bench_annotation,
    "annotate": _annotate,
    "rationales": _rationales,
}
"""By command. `generate`, `demo` and the other benchmarks end with words of their own."""
