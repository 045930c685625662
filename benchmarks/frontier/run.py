"""`wheels bench frontier`: quality against cost, students of several sizes alone and with calls of their teacher.

Distil first: a call is worth its price only above what a larger student gives for the same. So every way of two models
is held against the line of the models alone at equal cost.
"""

from __future__ import annotations

from typing import Any

from wheels.benchmarks.core.results import plain_values, write_result
from wheels.benchmarks.curve.decodes import rows_digest
from wheels.benchmarks.frontier.config import FrontierConfig
from wheels.benchmarks.frontier.measure import Bench
from wheels.benchmarks.frontier.plot import draw
from wheels.benchmarks.frontier.summary import beside, cheapest, points, versus
from wheels.benchmarks.frontier.table import as_csv, shown
from wheels.benchmarks.study import run as study
from wheels.benchmarks.study.config import StudyConfig
from wheels.config.parsing import versions, write_resolved
from wheels.data.tasks import Row
from wheels.errors import WheelsError
from wheels.metrics import signature
from wheels.runs import claim


def run(config: FrontierConfig) -> None:
    """Measure all ways, write the results to `config.output`, and print the tables.

    With a recipe its study is run, whose last stage this is.

    Raises:
        WheelsError: for what the user can mend: data, models, rules, rows that were chosen on and would be scored; as a
            study does, and for a recipe without the section `frontier`.
    """
    if config.recipe is not None:
        return _run_study(config, config.recipe)
    bench = Bench.open(config, config.output)
    split = bench.task.rows(config.split)
    bench.refuse(split)
    rows, kept = split[: config.limit], (bench.folder / "frontier.json").is_file
    identity = bench.identity | {"data_digest": rows_digest(rows)}
    with claim(bench.folder, "bench frontier", config, identity, kept=kept):
        found = plain_values(_measure(config, bench, rows))
        write_resolved(config, bench.folder, {"data_digest": rows_digest(rows), "models": identity["models"]})
        write_result(bench.folder, "frontier", found, as_csv(found), draw)
    print(f"{shown(found)}\nwritten to {bench.folder}: frontier.json, frontier.csv, frontier.png")


def _run_study(config: FrontierConfig, recipe: str) -> None:
    """Make the models first, by a recipe."""
    if not study.read_recipe(recipe, config.teacher).sections["frontier"]:
        raise WheelsError(f"{recipe}: must have the section frontier, with at least one setting")
    study.run(StudyConfig(recipe, config.data, config.output, config.threads, config.teacher))


def _measure(config: FrontierConfig, bench: Bench, rows: list[Row]) -> dict[str, Any]:
    """Calibrate, write, time, and return what `frontier.json` holds."""
    bench.calibrate()
    choice, scored = bench.front(bench.choice_rows, "choice"), bench.front(rows, "points")
    rounds = bench.time(choice, bench.ways)
    scored.seconds = choice.seconds
    task, teacher, students = bench.task, bench.students[0].artefact.teacher_name, bench.students
    place = f"{task.name}|{len(rows)}|{teacher}"
    first = {student.name: next(iter(student.seeds)) for student in students if student.seeds}
    return {
        "task": task.name,
        "rows": len(rows),
        "choice_rows": len(bench.choice_rows),
        "calibration_rows": len(bench.calibration_rows),
        "confidence": config.confidence,
        "teacher": {"name": teacher, "parameters": students[0].teacher_size},
        "students": [{"name": student.name, "parameters": student.size} for student in students],
        "notes": bench.notes,
        "metrics": {metric: signature(metric, scored.sample.references) for metric in task.metrics},
        "versions": versions(),
        "points": points(scored, task.metrics, place),
        "versus": versus(scored, task.metrics, first, config.claims),
        "beside": beside(scored, task.metrics),
        "cheapest": list(cheapest(choice, scored, task.metrics[0], config.levels, config.confidence)),
        "load": {str(size): [each["load"] for each in timed] for size, timed in rounds.items()},
    }
