"""`wheels advise`: which student, and how many calls of the teacher, for a loss of quality that is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from wheels.agents.config import TrainConfig
from wheels.benchmarks.core.bootstrap import interval
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.frontier.config import AdviseConfig
from wheels.benchmarks.frontier.front import PARAMETERS, Front
from wheels.benchmarks.frontier.measure import Bench
from wheels.benchmarks.frontier.students import Student
from wheels.benchmarks.frontier.table import cost_columns, cost_head, spent
from wheels.benchmarks.frontier.ways import Way, writer_of
from wheels.config.parsing import as_command, write_resolved
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.files import write_json
from wheels.metrics import metric_name
from wheels.output.tables import Column, Table, digits, estimate
from wheels.runs import claim


def run(config: AdviseConfig) -> None:
    """Measure all ways on the rows of the choice, and print the cheapest that keeps the quality, for each cost.

    Raises:
        WheelsError: for what the user can mend: data, models, rules.
    """
    bench = Bench.open(config, config.output)
    kept = (bench.folder / "advise.json").is_file
    with claim(bench.folder, "advise", config, bench.identity, kept=kept):
        bench.calibrate()
        front = bench.front(bench.choice_rows, "choice")
        metric = bench.task.metrics[0]
        held = held_by(front, metric, config.loss)
        holding = [way for way in front.ways if held[way] >= config.confidence]
        bench.time(front, holding)
        best = {cost: way for cost in front.costs if (way := front.cheapest(holding, cost)) is not None}
        found = plain_values(_found(config, bench, front, held, best))
        write_json(bench.folder / "advise.json", found)
        write_resolved(config, bench.folder, {"choice_digest": bench.identity["choice_digest"]})
    print(as_text(found))


def held_by(front: Front, metric: str, loss: float) -> dict[Way, float]:
    """Return the share of the resamples in which each way loses no more than `loss` points against the teacher."""
    floor_Z = front.quality(front.teacher, metric) - loss
    return {way: front.holding(way, metric, floor_Z) for way in front.ways}


def _found(
    config: AdviseConfig, bench: Bench, front: Front, held: dict[Way, float], best: dict[str, Way]
) -> dict[str, Any]:
    """Return what `advise.json` holds."""
    metric = bench.task.metrics[0]
    teacher_Z = front.quality(front.teacher, metric)
    facts = {name: getattr(config, name) for name in ("loss", "confidence", "choose_split")}
    facts |= {"task": bench.task.name, "metric": metric, "rows": len(bench.choice_rows), "notes": bench.notes}
    ways = [
        asdict(way)
        | {"name": way.name, "loss": interval(teacher_Z - front.quality(way, metric)), "held": held[way]}
        | {"quality": float(front.quality(way, metric)[0])}
        | {"costs": {cost: interval(front.cost(way, cost)) for cost in front.costs}}
        for way in front.ways
    ]
    command = next_command(config, writer_of(bench.students, best[PARAMETERS]), best[PARAMETERS])
    return facts | {"advice": {cost: way.name for cost, way in best.items()}, "next": command, "ways": ways}


def as_text(found: dict[str, Any]) -> str:
    """Return the advice, and every way below it."""
    ways = {way["name"]: way for way in found["ways"]}
    name, kept = metric_name(found["metric"]), f"in {found['confidence']:.0%} of the resamples"
    rows = f"{found['task']}, {found['rows']} {found['choose_split']} rows"
    parts = [f"{rows}: at most {found['loss']:g} {name} below the teacher alone {kept}"]
    parts += ["\n".join(f"note: {note}" for note in found["notes"])] if found["notes"] else []
    if not any(ways[way]["student"] for way in found["advice"].values()):
        near = max((way for way in found["ways"] if way["student"]), key=lambda way: way["held"])
        parts.append(
            f"nothing but the teacher alone: no student, with no budget that was tried, keeps that. The nearest, "
            f"{near['name']}, keeps it in {near['held']:.0%}. Allow more --loss, ask for less --confidence, give more "
            "rows (--choose-limit), or a student that was distilled better"
        )
    shown = [
        Column("cheapest in", lambda row: cost_head(row[0])),
        Column("way", lambda row: row[1]["name"]),
        Column("it costs", lambda row: spent(row[0], row[1]["costs"][row[0]]["value"])),
        *_loss_columns(name, lambda row: row[1]),
    ]
    parts.append(Table.of(shown, [(cost, ways[way]) for cost, way in found["advice"].items()]).text())
    every = [Column("every way", "name"), Column(name, "quality", digits(1)), *_loss_columns(name, lambda row: row)]
    every += cost_columns(list(found["ways"][0]["costs"]))
    parts.append(Table.of(every, found["ways"]).text())
    parts.append("(each way's interval and share are its own: of many, the cheapest that holds is a little flattered)")
    return "\n\n".join(parts)


def _loss_columns(name: str, way: Callable[[Any], Mapping[str, Any]]) -> list[Column]:
    """Return what a way loses, and in which share of the resamples that is allowed."""
    return [
        Column(f"{name} lost [95%]", lambda row: estimate(way(row)["loss"]["value"], way(row)["loss"])),
        Column("holds in", lambda row: f"{way(row)['held']:.0%}"),
    ]


def next_command(config: AdviseConfig, student: Student, way: Way) -> str | None:
    """Return the command to type next: the one that writes in this way, or the one that makes it possible.

    None for the teacher alone, which needs none of ours.
    """
    rows: dict[str, Any] = {"data": config.data, "source": config.source, "target": config.target}
    if not way.student:
        return None
    if not way.rule:
        pair: dict[str, Any] = {"student": student.folder, "teacher": config.teacher}
        return as_command("wheels generate", GenerateConfig("TEXT", rule="random", teacher_budget=0.0, **pair))
    if student.artefact.folder is None:
        output, teacher = f"{student.folder.rstrip('/')}-deferral", str(config.teacher)
        return as_command("wheels train", TrainConfig(student.folder, teacher, output=output, **rows))
    if student.calibrated_here:
        wanted: dict[str, Any] = {"model": student.folder, "teacher": config.teacher, "split": config.choose_split}
        return as_command(
            "wheels calibrate", CalibrateConfig(**wanted, rules=(way.rule,), budgets=config.budgets, **rows)
        )
    model: dict[str, Any] = {"model": student.folder, "teacher": config.teacher, "method": way.method, "rule": way.rule}
    tolerance = config.tolerance if way.method == "verified" else None
    return as_command(
        "wheels generate", GenerateConfig("TEXT", teacher_budget=way.budget, tolerance=tolerance, **model)
    )
