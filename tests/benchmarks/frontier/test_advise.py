"""`wheels advise`: the cheapest way that keeps the quality, the command that writes so, and where nothing does."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from wheels.benchmarks.frontier import advise
from wheels.benchmarks.frontier.advise import next_command, run
from wheels.benchmarks.frontier.config import AdviseConfig
from wheels.benchmarks.frontier.measure import Bench
from wheels.benchmarks.frontier.ways import TEACHER_ALONE, Way
from wheels.cli.commands import COMMANDS
from wheels.cli.endings import ending
from wheels.cli.main import _find, _load
from wheels.config.parsing import parse
from wheels.policy.calibration import Calibration, Point


@pytest.fixture
def config(settings) -> AdviseConfig:
    return AdviseConfig(**settings, loss=1000.0)


@pytest.mark.slow
def test_where_any_loss_is_allowed_the_smallest_student_alone_is_the_cheapest(config, capsys):
    run(config)
    found = json.loads((Path(config.output) / "advise.json").read_text())
    assert found["advice"]["parameters"] == found["advice"]["tokens"] == "plain alone"
    assert set(found["advice"]) == {"parameters", "tokens", "seconds 1", "seconds 2"}
    assert all(way["held"] == 1.0 for way in found["ways"]) and found["rows"] == 9
    shown = capsys.readouterr().out
    assert "9 validation rows: at most 1000 chrF below the teacher alone in 90% of the resamples" in shown
    (line,) = ending("advise", config)
    assert line.startswith("next, plain alone: wheels generate --student ")


@pytest.mark.slow
def test_where_nothing_keeps_it_the_teacher_alone_and_only_that_is_timed(config, capsys, monkeypatch):
    timed = []
    real = advise.Bench.time
    monkeypatch.setattr(advise.Bench, "time", lambda bench, front, ways: [timed.extend(ways), real(bench, front, ways)])
    monkeypatch.setattr(advise, "held_by", lambda front, metric, loss: {w: float(not w.student) for w in front.ways})
    run(replace(config, loss=0.0))
    shown = capsys.readouterr().out
    assert "nothing but the teacher alone: no student, with no budget that was tried, keeps that" in shown
    assert timed == [TEACHER_ALONE]
    assert ending("advise", config) == []


@pytest.mark.slow
def test_a_loss_that_is_allowed_moves_the_floor(config):
    bench = Bench.open(config, config.output)
    bench.calibrate()
    front = bench.front(bench.choice_rows, "choice")
    lost = float(front.quality(front.teacher, "chrf")[0] - front.quality(front.ways[0], "chrf")[0])
    shares = [advise.held_by(front, "chrf", loss)[front.ways[0]] for loss in (0.0, lost, 100.0)]
    assert shares == sorted(shares) and shares[0] < shares[2] == 1.0
    assert all(advise.held_by(front, "chrf", loss)[front.teacher] == 1.0 for loss in (0.0, 1.0))


def test_the_next_command_parses_and_is_of_what_the_student_can_do(config):
    bench = Bench.open(config, config.output)
    plain, trained = bench.students
    folder = Path(trained.folder) / "deferral" / "calibration.json"
    Calibration([Point("learned", seed, 0.3, 0.0, 0.3) for seed in (0, 1)]).save(folder)
    ways = [Way("plain"), Way("plain", "deferral", "margin", 0.3), Way("trained", "verified", "learned", 0.3)]
    commands = [next_command(config, student, way) for student, way in zip((plain, plain, trained), ways, strict=True)]
    trained.calibrated_here = True
    commands.append(next_command(config, trained, ways[-1]))
    assert [command.split(" --")[0] for command in commands] == [
        "wheels generate", "wheels train", "wheels generate", "wheels calibrate"
    ]  # fmt: skip
    for command in commands:
        name, rest = _find(shlex.split(command)[1:])
        parse(_load(COMMANDS[name].config), rest, prog=name)
    assert next_command(config, plain, TEACHER_ALONE) is None
