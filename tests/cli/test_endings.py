"""Each long command ends with its score and the command to type next, which is one that can be typed."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from wheels.agents.config import TrainConfig
from wheels.annotation.config import AnnotateConfig
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.frontier.config import AdviseConfig
from wheels.benchmarks.passes.config import PassesConfig
from wheels.benchmarks.speed.config import SpeedConfig
from wheels.benchmarks.study.config import StudyConfig
from wheels.cli import main as cli
from wheels.cli.commands import COMMANDS
from wheels.cli.endings import ENDINGS, ending
from wheels.cli.main import _find, _load
from wheels.config.parsing import parse
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.distillation.config import PretrainConfig
from wheels.rationales.config import RationalesConfig


def ends(name: str, config) -> tuple[list[str], list[str]]:
    """Return what is said, and the commands named next, each of which must parse."""
    lines = ending(name, config)
    said, commands = [line for line in lines if ": wheels " not in line], []
    for line in lines:
        if ": wheels " in line:
            commands.append(line.partition(": ")[2])
            found, rest = _find(shlex.split(commands[-1])[1:])
            parse(_load(COMMANDS[found].config), rest, prog=found)
    return said, commands


def put(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_endings_are_of_commands_that_there_are():
    assert set(ENDINGS) <= set(COMMANDS)
    assert ending("env", None) == []


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_pretrain_ends_with_its_score_and_what_the_student_is_for():
    put(Path("out/finished.json"), {"steps": 9, "best_step": 6, "metric": "chrf", "value": 61.234, "rows": 5})
    said, commands = ends(
        "pretrain", PretrainConfig(output="out", teacher="t", objective="kl", data="rows", source="s")
    )
    assert said == ["written to out after 9 steps", "chrf 61.23 on the validation rows, at step 6"]
    assert commands == ["wheels train --student out --teacher t --data rows --output out-deferral --source s"]


FAR = {"teacher": "http://h:1/v1", "teacher_model": "big"}


def test_a_teacher_at_an_address_is_named_with_what_the_server_calls_it():
    put(Path("out/finished.json"), {"steps": 9, "best_step": 6, "metric": "chrf", "value": 61.234, "rows": 5})

    def is_far(command: str) -> bool:
        return "--teacher http://h:1/v1 " in command and "--teacher-model big" in command

    _, commands = ends(
        "pretrain",
        PretrainConfig(output="out", objective="kl", student="s", cached_logits=8, data="rows", **FAR),
    )
    assert len(commands) == 1 and is_far(commands[0])
    for calibrate in (True, False):
        _, commands = ends("train", TrainConfig(student="s", output="o", data="rows", calibrate=calibrate, **FAR))
        assert commands and all(map(is_far, commands))
    _, commands = ends("calibrate", CalibrateConfig(model="o", data="rows", **FAR))
    assert commands and all(map(is_far, commands))
    curve = {"quality": 1.0}
    put(Path("c/curve.json"), {"student": curve, "teacher": curve, "points": [], "metrics": ["bleu"]})
    _, commands = ends("bench curve", CurveConfig(model="o", data="rows", output="c", **FAR))
    assert commands == [], "no verification is measured over HTTP"


def test_a_teacher_is_followed_by_its_student():
    put(Path("out/finished.json"), {"steps": 9, "rows": 5})
    said, commands = ends("pretrain", PretrainConfig(output="out", data="rows"))
    assert said == ["written to out after 9 steps"]
    assert commands == ["wheels pretrain --output out-student --data rows --teacher out --objective kl"]


@pytest.mark.parametrize("calibrated", [True, False])
def test_train_ends_with_what_a_trained_model_is_for(calibrated):
    lines = [{"seed": seed, "warm_start": {"held_out_r2": share}} for seed, share in ((0, 0.4), (1, 0.5))]
    put(Path("out/metrics.jsonl"), "".join(json.dumps(line) + "\n" for line in [*lines, {"seed": 0, "round": 0}]))
    config = TrainConfig(student="s", teacher="t", data="rows", output="out", calibrate=calibrated)
    said, commands = ends("train", config)
    assert said == ["the warm start explains 45.0% of the variance of the regret on states that it did not see"]
    use = [
        "wheels generate --model out --teacher-budget 0.2 -- TEXT",
        "wheels bench curve --model out --data rows --output out-curve",
    ]
    assert commands == (use if calibrated else ["wheels calibrate --model out --data rows"])
    _, spans = ends("train", replace(config, span="line"))
    assert len(spans) == len(commands) and all("--span line" in command for command in spans)


def test_calibrate_ends_with_what_a_calibrated_model_is_for():
    _, commands = ends("calibrate", CalibrateConfig(model="m", data="rows", target="t"))
    assert commands[1] == "wheels bench curve --model m --data rows --target t --output m-curve"


def test_what_is_named_next_was_calibrated():
    config = CalibrateConfig(model="m", data="d", rules=("margin", "random"), budgets=(0.1, 0.4))
    assert ends("calibrate", config)[1] == [
        "wheels generate --model m --teacher-budget 0.1 --rule margin -- TEXT",
        "wheels bench curve --model m --data d --budgets 0,0.1,0.4,1 --output m-curve",
    ]


def test_a_curve_ends_with_the_score_at_the_budget_next_to_a_fifth():
    def point(rule: str, budget: float, quality: float, use: float) -> dict:
        return {"rule": rule, "budget": budget, "quality": quality, "use": use}

    points = [point("learned", 0.1, 1, 0.1), point("learned", 0.2, 40, 0.18), point("learned", 0.2, 50, 0.2)]
    points += [point("random", 0.2, 7, 0.2), point("learned", 1.0, 90, 1.0)]
    curve = {"metrics": ["bleu"], "rules": ["random", "learned"], "points": points}
    put(Path("out/curve.json"), curve | {"student": {"quality": 36.3}, "teacher": {"quality": 96.2}})
    said, commands = ends("bench curve", CurveConfig(model="m", data="rows", output="out"))
    assert said == [
        "learned: bleu 45.0 at teacher use 0.190 (student 36.3, teacher 96.2)",
        "next: open out/report.html in a browser",
    ]
    assert commands == ["wheels bench passes --model m --data rows --budgets 0.05,0.1,0.2,0.3,0.4,0.5"]
    put(Path("out/curve.json"), curve | {"student": {"quality": 1}, "teacher": {"quality": 2}, "points": points[-1:]})
    assert ends("bench curve", CurveConfig(output="out"))[0] == ["next: open out/report.html in a browser"]


def test_passes_are_followed_by_seconds():
    assert ends("bench passes", PassesConfig())[1] == ["wheels bench speed"]
    assert ends("bench passes", PassesConfig(model="m", data="d"))[1] == ["wheels bench speed --model m --data d"]


def test_speed_ends_with_the_fastest():
    systems = [("hf-teacher", 1.0), ("deferral", 2.5), ("lookup", 1.5)]
    timed = [{"name": name, "label": name, "speedup": {"median": ratio}} for name, ratio in systems]
    put(Path("out/speed.json"), {"batches": [{"batch_size": 8, "reference": "ct2-teacher", "contestants": timed}]})
    wanted = "batch 8: deferral is fastest, 2.50 x ct2-teacher, the fastest teacher alone"
    assert ending("bench speed", SpeedConfig(output="out")) == [wanted]


def test_advice_ends_with_the_command_of_what_it_names():
    command = "wheels generate --model m --teacher-budget 0.2 -- TEXT"
    put(Path("out/advise.json"), {"advice": {"parameters": "m, learned, budget 0.2"}, "next": command})
    config = AdviseConfig(data="d", students=("m",), teacher="t", output="out")
    assert ends("advise", config) == ([], [command])
    put(Path("out/advise.json"), {"advice": {"parameters": "teacher alone"}, "next": None})
    assert ends("advise", config) == ([], [])


def test_a_study_with_a_policy_ends_with_its_model():
    config = StudyConfig(recipe="tatoeba", data="d", output="out")
    assert ending("bench study", config) == []
    put(Path("out/model/deferral/calibration.json"), {})
    assert ends("bench study", config)[1] == ["wheels generate --model out/model --teacher-budget 0.2 -- TEXT"]


def test_annotations_and_rationales_are_followed_by_a_student():
    put(Path("out/annotated.jsonl"), "")
    settings = {"input": "i", "output": "out", "annotation_budget": 3, "teacher": "t", "select": "random"}
    said, commands = ends("annotate", AnnotateConfig(**settings))
    assert said == ["written to out: annotated.jsonl, rejected.jsonl, summary.json"]
    assert commands == ["wheels pretrain --output out-student --data out/annotated.jsonl"]
    assert ending("annotate", AnnotateConfig(**settings, dry_run=True)) == []
    put(Path("r.jsonl.run/resolved.json"), {"rows": 12})
    said, commands = ends("rationales", RationalesConfig(teacher="t", data="d", output="r.jsonl", html="p.html"))
    assert said == ["written to r.jsonl: 12 rows with rationales; p.html"]
    assert commands == ["wheels pretrain --output r.jsonl-student --data r.jsonl --rationale rationale"]


def test_a_command_that_was_typed_says_its_ending(capsys, monkeypatch):
    monkeypatch.setattr(cli, "parse", lambda *args, **more: PassesConfig())
    monkeypatch.setattr(cli, "_load", lambda place: print)
    shown = "next, seconds instead of passes: wheels bench speed\n"
    assert cli.main(["bench", "passes"]) == 0
    assert capsys.readouterr().err == shown
    assert cli.main(["bench", "passes", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
