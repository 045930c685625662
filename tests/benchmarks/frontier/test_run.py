"""`wheels bench frontier`: plain and trained students, a rerun that repeats nothing, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from wheels.benchmarks.core import decodes
from wheels.benchmarks.curve.decodes import rows_digest
from wheels.benchmarks.frontier import timing
from wheels.benchmarks.frontier.config import FrontierConfig
from wheels.benchmarks.frontier.measure import Bench
from wheels.benchmarks.frontier.run import run
from wheels.benchmarks.frontier.ways import writer_of
from wheels.cli import main as cli
from wheels.errors import WheelsError
from wheels.policy.calibration import Calibration, Point


@pytest.fixture
def config(settings) -> FrontierConfig:
    return FrontierConfig(**settings)


@pytest.mark.slow
def test_everything_is_measured_and_kept(config, capsys, monkeypatch):
    run(config)
    folder = Path(config.output)
    found = json.loads((folder / "frontier.json").read_text())
    assert [student["name"] for student in found["students"]] == ["plain", "trained"]
    assert found["notes"] == ["plain has no trained head for learned"]
    assert (found["rows"], found["choice_rows"], found["calibration_rows"]) == (12, 9, 3)
    lines = dict.fromkeys(point["line"] for point in found["points"])
    assert list(lines) == [
        "plain alone", "trained alone", "teacher alone", "plain, margin", "plain, margin, verified",
        "trained, learned", "trained, learned, verified", "trained, margin", "trained, margin, verified",
    ]  # fmt: skip
    points = {point["line"]: point for point in found["points"]}
    assert points["trained, learned"]["seeds"] == [0, 1] and points["plain, margin"]["seeds"] == [0]
    teacher, plain = points["teacher alone"]["costs"], points["plain alone"]["costs"]
    assert (teacher["parameters"]["value"], teacher["tokens"]["value"]) == (1.0, 1.0)
    sizes = [found["students"][0]["parameters"], found["teacher"]["parameters"]]
    assert (plain["parameters"]["value"], plain["tokens"]["value"]) == pytest.approx(
        (sizes[0] / sizes[1], 0.0), abs=1e-6
    )
    assert all(point["costs"][f"seconds {size}"]["value"] > 0 for point in found["points"] for size in (1, 2))
    assert {row["cost"] for row in found["cheapest"]} == set(teacher) and len(found["load"]["2"]) == 2
    assert (folder / "frontier-dark.png").is_file() and (folder / "frontier.csv").is_file()
    assert "the cheapest way, chosen on other rows" in capsys.readouterr().out
    for module in (decodes, timing):
        monkeypatch.setattr(module, "decode", lambda *args, **kwargs: pytest.fail("decoded again"))
    run(config)
    assert json.loads((folder / "frontier.json").read_text()) == found


@pytest.mark.slow
def test_a_cost_is_what_the_traces_counted(config):
    bench = Bench.open(config, config.output)
    bench.calibrate()
    front = bench.front(bench.choice_rows, "choice")
    called = []
    for way in (way for way in front.ways if way.rule == "margin"):
        student = writer_of(bench.students, way)
        records = [record for key in way.keys for record in front.sample.outputs[key]]
        read = sum(r.student_passes * student.size + r.teacher_passes * student.teacher_size for r in records)
        share = read / student.teacher_size / sum(record.tokens for record in records)
        assert front.cost(way, "parameters")[0] == pytest.approx(share)
        called.append(sum(record.teacher_passes for record in records))
    assert len(called) == 4 and max(called) > 0


@pytest.mark.slow
def test_a_model_keeps_its_own_thresholds(config):
    folder = Path(config.students[1]) / "deferral" / "calibration.json"
    Calibration([Point("learned", seed, 0.3, 7.0 + seed, 0.3) for seed in (0, 1)]).save(folder)
    bench = Bench.open(config, config.output)
    bench.calibrate()
    trained = bench.students[1]
    assert [trained.artefact.calibration.threshold("learned", 0.3, seed) for seed in (0, 1)] == [7.0, 8.0]
    assert trained.artefact.calibration.threshold("margin", 0.3) < 0 and trained.calibrated_here
    own = replace(config, students=config.students[1:], rules=("learned",))
    bench = Bench.open(own, own.output)
    bench.calibrate()
    assert not bench.students[0].calibrated_here
    assert (len(bench.calibration_rows), len(bench.choice_rows)) == (0, 12), "nothing lacks: all are to choose on"


def test_thresholds_and_choice_have_rows_of_their_own(config):
    bench = Bench.open(config, config.output)
    every = bench.task.rows("validation")
    assert bench.calibration_rows == every[::4]
    assert not {row.source for row in bench.calibration_rows} & {row.source for row in bench.choice_rows}
    assert len(bench.calibration_rows) + len(bench.choice_rows) == len(every)


def test_all_students_share_one_teacher_in_memory(config):
    first, second = Bench.open(config, config.output).students
    assert first.artefact.pair.teacher is second.artefact.pair.teacher


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": "validation"}, "way would be chosen on the very rows"),
        ({"rules": ("learned",), "students": 1}, "no student has a trained head for learned; run `wheels train`"),
        ({"students": 3}, "two of the students .* are named 'plain'; rename a folder"),
    ],
)
def test_what_is_refused(config, tmp_path, values, message):
    if "students" in values:
        twin = shutil.copytree(config.students[0], tmp_path / "twin" / "plain")
        values = values | {"students": (*config.students, str(twin))[: values["students"]]}
        values |= {"students": (config.students[0], str(twin))} if len(values["students"]) == 3 else {}
    with pytest.raises(WheelsError, match=message):
        run(replace(config, **values))


def test_rows_that_a_model_was_calibrated_on_are_not_scored(config):
    bench = Bench.open(config, config.output)
    place = Path(config.students[1]) / "deferral" / "calibration.json"
    test = bench.task.rows("test")
    Calibration([Point("learned", 0, 0.3, 0.0, 0.3)], data_digest=rows_digest(test)).save(place)
    with pytest.raises(WheelsError, match="calibrated on the very rows"):
        run(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"students": ()}, "--students is missing: give --students A,B,C and --teacher T"),
        ({"teacher": None}, "--teacher is missing"),
        ({"rules": ()}, "rules must hold at least one value, got none"),
        ({"budgets": (0.0, 0.2)}, "budgets must lie between 0 and 1"),
        ({"recipe": "frontier-multi30k"}, "--students and --recipe do not go together: a recipe holds it, or makes it"),
        ({"recipe": "r", "students": (), "rules": ("margin",)}, "--rules and --recipe do not go together"),
    ],
)
def test_a_configuration_that_is_refused(values, message):
    with pytest.raises(WheelsError, match=message):
        FrontierConfig(**{"data": "d", "students": ("a",), "teacher": "t"} | values)


def test_budgets_stand_once_and_in_order():
    config = FrontierConfig(data="d", students=("a",), teacher="t", budgets=(0.3, 0.1, 0.3), time_batches=())
    assert config.budgets == (0.1, 0.3) and config.time_batches == ()


def test_a_recipe_without_the_section_is_refused(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("teacher: {width: 8}\nstudents: {a: {width: 8}}\n")
    arguments = ["bench", "frontier", "--recipe", str(recipe), "--data", str(tmp_path), "--output", str(tmp_path / "o")]
    assert cli.main(arguments) == 2
    assert "must have the section frontier" in capsys.readouterr().err
