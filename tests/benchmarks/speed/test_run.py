"""`wheels bench speed` from end to end, on a pair of random weights that takes milliseconds."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from tests.benchmarks.speed.test_config import SIZES
from tests.decoding.tiny import make_pair, save_artefact
from wheels.benchmarks.speed import ct2_systems, llama_systems
from wheels.benchmarks.speed import run as speed_module
from wheels.benchmarks.speed.config import CT2, LLAMA, RIVALS, SYSTEMS, WITH_RANDOM_WEIGHTS, SpeedConfig, is_alone
from wheels.benchmarks.speed.forward_timer import Machine, Shape
from wheels.benchmarks.speed.hf_systems import Outcome
from wheels.benchmarks.speed.records import Round, Timing, round_file, round_of
from wheels.benchmarks.speed.run import make_plan, number_format, run
from wheels.benchmarks.speed.systems import KNOWN
from wheels.cli.main import main
from wheels.decoding.models.auto import Choice
from wheels.errors import WheelsError

MACHINE = Machine(bandwidth=1e10, peak=1e11)
ROW = '{"source": "a b c", "target": "b"}\n{"source": "k j", "target": "c"}\n'


WITHOUT = tuple(name for name in WITH_RANDOM_WEIGHTS if name not in RIVALS)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is given, and the other engines are not there: they have tests of their own."""
    monkeypatch.setattr(Machine, "measure", classmethod(lambda *_: MACHINE))
    for engine in (ct2_systems, llama_systems):
        monkeypatch.setattr(engine, "why_not", lambda pair: "it is not there")


@pytest.fixture
def config(tmp_path: Path) -> SpeedConfig:
    (tmp_path / "sizes.yaml").write_text(SIZES)
    place, output = str(tmp_path / "sizes.yaml"), str(tmp_path / "out")
    return SpeedConfig(random_weights=place, rows=4, batch_sizes=(1, 3), rounds=2, output=output)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The systems in the order in which they run, each with its batch size."""
    runs: list[tuple[str, int]] = []
    for name, system in list(KNOWN.items()):

        def noted(workload, batch_size, name=name, system=system):
            runs.append((name, batch_size))
            return system.run(workload, batch_size)

        monkeypatch.setitem(KNOWN, name, dataclasses.replace(system, run=noted))
    return runs


def numbers(value: object) -> list[float]:
    """Return every number in a value of JSON."""
    if isinstance(value, dict | list):
        return [each for part in (value.values() if isinstance(value, dict) else value) for each in numbers(part)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.slow
def test_everything_is_written(config: SpeedConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run(config)
    folder, shown = Path(config.output), capsys.readouterr().out
    content = json.loads((folder / "speed.json").read_text())
    assert {"config", "versions", "threads", "load_average", "dtype", "signature", "processor", "notes"} <= set(content)
    assert content["notes"][0].startswith("random weights repeat one token, which flatters speculation")
    assert [batch["batch_size"] for batch in content["batches"]] == [1, 3]
    assert all(map(math.isfinite, numbers(content)))
    for batch in content["batches"]:
        assert [each["name"] for each in batch["contestants"]] == list(WITHOUT)
        for each in batch["contestants"]:
            assert each["tokens"] == 4 * 6, "every text has the length that was asked for"
            assert len(each["seconds"]) == 2
            assert each["seconds"] == [round_["seconds"][each["name"]] for round_ in batch["rounds"]]
            ours = not each["name"].startswith("hf-")
            assert each["loop_overhead"]["low"] > 1 if ours else each["loop_overhead"] is None
            assert each["scheduler_overhead"]["median"] > 0 and each["distance"]["median"] > 0
            assert f"|{each['name']}|" in each["signature"] and f"|batch:{batch['batch_size']}|" in each["signature"]
            assert each["differing"] == (0 if each["name"] in ("teacher", "student") else None)
        fastest = next(each for each in batch["contestants"] if each["name"] == batch["reference"])
        assert fastest["speedup"] == {"median": 1.0, "low": 1.0, "high": 1.0}
        assert all(each["speedup"]["median"] <= 1 for each in batch["contestants"] if is_alone(each["name"], "teacher"))
        assert {each["name"]: each["equal"] for each in batch["contestants"]}["teacher"] == 1.0
        assert all(each["quality"] is None for each in batch["contestants"]), "random words have no references"
        assert [(each["model"], each["kind"], each["width"]) for each in batch["forwards"]] == [
            (model, kind, width)
            for model, width in (("student", 1), ("teacher", 1), ("teacher", 6)) for kind in ("decode", "lean")
        ]  # fmt: skip
    lines = list(csv.DictReader((folder / "speed.csv").open()))
    assert len(lines) == 2 * len(WITHOUT)
    assert shown.count("batch size") == 2 and "WARNING" not in shown
    assert matplotlib.image.imread(folder / "speed.png").shape[1] > 1000
    assert json.loads((folder / "resolved.json").read_text())["config"]["rows"] == 4


@pytest.mark.slow
def test_systems_take_turns_behind_a_warm_up(config: SpeedConfig, ran: list[tuple[str, int]]) -> None:
    run(config)
    names = list(WITHOUT)
    turns = [*names, *names, *names[1:], names[0]]
    assert ran == [(name, 1) for name in turns] + [(name, 3) for name in turns]
    assert json.loads(round_file(Path(config.output), 3, 1).read_text())["order"] == [*names[1:], names[0]]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_was(
    config: SpeedConfig, ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names, student = list(WITHOUT), KNOWN["student"]

    def interrupted(workload, batch_size):
        if len(ran) > 2 * len(names):
            raise KeyboardInterrupt
        return student.run(workload, batch_size)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(KNOWN, "student", dataclasses.replace(student, run=interrupted))
        run(config)
    kept = round_file(Path(config.output), 1, 0).read_bytes()
    assert not round_file(Path(config.output), 1, 1).exists()
    ran.clear()
    run(config)
    assert [size for _, size in ran] == [1] * 2 * len(names) + [3] * 3 * len(names), "round 1 is not timed again"
    assert round_file(Path(config.output), 1, 0).read_bytes() == kept
    before = (Path(config.output) / "speed.csv").read_bytes()
    ran.clear()
    run(config)
    assert ran == [] and (Path(config.output) / "speed.csv").read_bytes() == before
    run(dataclasses.replace(config, rounds=3, batch_sizes=(1,)))
    assert ran == [(name, 1) for name in [*names, *names[2:], *names[:2]]]


@pytest.mark.slow
def test_a_folder_of_another_configuration_or_engine_is_refused(
    config: SpeedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = dataclasses.replace(config, rounds=1, batch_sizes=(1,), methods=("student",))
    run(once)
    before = (Path(config.output) / "resolved.json").read_bytes()
    changes: list[dict[str, Any]] = [{"rows": 3}, {"teacher_budget": 0.4}, {"methods": ("teacher",)}]
    for change in changes:
        with pytest.raises(WheelsError, match=r"holds a run with .*; give another --output, or remove"):
            run(dataclasses.replace(once, **change))
        assert (Path(config.output) / "resolved.json").read_bytes() == before
    monkeypatch.setattr(speed_module, "code_digest", lambda: "another")
    with pytest.raises(WheelsError, match=r"with code_digest '[0-9a-f]{16}', not 'another'"):
        run(once)


@pytest.mark.slow
def test_outputs_that_differ_are_never_hidden(
    config: SpeedConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = KNOWN["teacher"]

    def wrong(workload, batch_size) -> Outcome:
        outcome = teacher.run(workload, batch_size)
        return dataclasses.replace(outcome, outputs=[*outcome.outputs[:2], (5,), outcome.outputs[3]])

    monkeypatch.setitem(KNOWN, "teacher", dataclasses.replace(teacher, run=wrong))
    run(dataclasses.replace(config, rounds=1, batch_sizes=(3,), methods=("hf-teacher", "teacher")))
    shown = capsys.readouterr().out
    assert "WARNING: batch size 3: 1 outputs of teacher are not those of hf-teacher, such as that of row 3" in shown
    content = json.loads((Path(config.output) / "speed.json").read_text())
    (found,) = [each for each in content["batches"][0]["contestants"] if each["name"] == "teacher"]
    assert (found["differing"], found["different"]) == (1, [2])


@pytest.mark.slow
def test_a_busy_machine_is_named(config: SpeedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    once = dataclasses.replace(config, rounds=1, batch_sizes=(1,), methods=("student",))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (1.9, 0.0, 0.0))
    assert not any("busy" in note for note in run(once).notes)
    monkeypatch.setattr("os.getloadavg", lambda: (3.5, 0.0, 0.0))
    again = run(dataclasses.replace(once, rounds=2))
    assert "the machine was busy (load up to 3.5 on 2 cores)" in again.notes[-1]


def test_a_round_comes_back_as_it_was() -> None:
    forwards = [["student", "decode", 1, 1, 32, 1, 0.25]]
    timed = Round(["a"], [0.0, 0.0, 0.0], {"a": Timing(1.0, [[5, 1]], 1, 0, 0, 0, [], 0.5)}, MACHINE, forwards)
    assert round_of(json.loads(json.dumps(dataclasses.asdict(timed)))) == timed
    assert timed.seconds == {Shape("student", "decode", 1, 1, 32, 1): 0.25}


@pytest.mark.slow
def test_a_trained_pair_is_timed_with_all_that_it_can_do(tmp_path: Path) -> None:
    folder = save_artefact(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(ROW)
    config = SpeedConfig(model=str(folder), data=str(tmp_path / "rows.jsonl"), rows=9, max_new_tokens=5)
    plan = make_plan(config)
    without = ("deferral", "deferral-lockstep", "verified", *RIVALS)
    assert plan.names == [name for name in SYSTEMS if name not in without]
    assert plan.notes[0].startswith("without deferral, deferral-lockstep, verified: ")
    assert plan.notes[1:3] == [f"without {', '.join(names)}: it is not there" for names in (CT2, LLAMA)]
    assert plan.notes[3] == "rows has 2 of the 9 rows asked for"
    with pytest.raises(WheelsError, match="ct2-teacher cannot be timed: it is not there"):
        make_plan(dataclasses.replace(config, methods=("ct2-teacher",)))
    with pytest.raises(WheelsError, match="calibrat"):
        make_plan(dataclasses.replace(config, methods=("deferral",)))
    code = main(
        f"bench speed --model {folder} --data {tmp_path}/rows.jsonl --rounds 1 --batch-sizes 2 --max-new-tokens 5 "
        f"--methods speculative,lookup,hf-assisted --output {tmp_path}/out".split()
    )
    content = json.loads((tmp_path / "out" / "speed.json").read_text())
    assert code == 0 and all(list(each["quality"]) == ["bleu", "chrf"] for each in content["batches"][0]["contestants"])


def test_what_runs_the_models_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, config = Choice("torch", "float32"), SpeedConfig(batch_sizes=(1, 8))
    chosen = {1: (plain, plain), 8: (plain, plain)}
    monkeypatch.setattr(speed_module, "choices_of", lambda pair, size: chosen[size])
    assert number_format(config, make_pair("t5")) == "float32"
    chosen[8] = (Choice("onnx", "float32"), plain)
    assert number_format(config, make_pair("t5")) == "float32, student by torch float32 at 1, onnx float32 at 8"
    chosen |= dict.fromkeys((1, 8), (plain, Choice("onnx", "int8")))
    assert number_format(config, make_pair("t5")) == "float32, teacher by onnx int8"
