"""`wheels bench speed` from end to end, on a pair of random weights that takes milliseconds."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path

import matplotlib.image
import pytest

from tests.benchmarks.speed.test_config import SIZES
from tests.decoding.tiny import make_pair, save_artefact
from tests.pictures import drawn
from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.speed import ct2_systems
from wheels.benchmarks.speed import run as speed_module
from wheels.benchmarks.speed.config import CT2, SYSTEMS, WITH_RANDOM_WEIGHTS, SpeedConfig, is_alone
from wheels.benchmarks.speed.forward_timer import ForwardTimer, Machine, Shape
from wheels.benchmarks.speed.hf_systems import Outcome
from wheels.benchmarks.speed.plot import draw
from wheels.benchmarks.speed.records import Round, Timing, round_file, round_of
from wheels.benchmarks.speed.run import make_plan, number_format, run
from wheels.benchmarks.speed.summary import Speed, WorkloadFacts, summarise, time_forwards
from wheels.benchmarks.speed.systems import KNOWN
from wheels.benchmarks.speed.table import as_csv, as_text
from wheels.cli.main import main
from wheels.errors import WheelsError

MACHINE = Machine(bandwidth=1e10, peak=1e11)
ROW = '{"source": "a b c", "target": "b"}\n{"source": "k j", "target": "c"}\n'


WITHOUT = tuple(name for name in WITH_RANDOM_WEIGHTS if name not in CT2)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is given, and CTranslate2 is not there: `test_ct2_systems` has it."""
    monkeypatch.setattr(Machine, "measure", classmethod(lambda *_: MACHINE))
    monkeypatch.setattr(ct2_systems, "why_not", lambda pair: "it is not there")


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


@pytest.mark.parametrize("change", [{"rows": 3}, {"teacher_budget": 0.4}, {"methods": ("teacher",)}])
def test_a_folder_of_another_configuration_is_refused(config: SpeedConfig, change: dict[str, object]) -> None:
    once = dataclasses.replace(config, rounds=1, batch_sizes=(1,), methods=("student",))
    run(once)
    before = (Path(config.output) / "resolved.json").read_bytes()
    with pytest.raises(WheelsError, match=r"holds a run with .*; give another --output, or remove"):
        run(dataclasses.replace(once, **change))
    assert (Path(config.output) / "resolved.json").read_bytes() == before


def test_rounds_of_another_engine_are_refused(config: SpeedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    once = dataclasses.replace(config, rounds=1, batch_sizes=(1,), methods=("student",))
    run(once)
    monkeypatch.setattr(speed_module, "code_digest", lambda: "another")
    with pytest.raises(WheelsError, match=r"with code_digest '[0-9a-f]{16}', not 'another'"):
        run(once)


def test_outputs_that_differ_are_never_hidden(
    config: SpeedConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = KNOWN["teacher"]

    def wrong(workload, batch_size) -> Outcome:
        outcome = teacher.run(workload, batch_size)
        return dataclasses.replace(outcome, outputs=[*outcome.outputs[:2], (5,), outcome.outputs[3]])

    monkeypatch.setitem(KNOWN, "teacher", dataclasses.replace(teacher, run=wrong))
    run(dataclasses.replace(config, rounds=1, batch_sizes=(3,)))
    shown = capsys.readouterr().out
    assert "WARNING: batch size 3: 1 outputs of teacher are not those of hf-teacher, such as that of row 3" in shown
    content = json.loads((Path(config.output) / "speed.json").read_text())
    (found,) = [each for each in content["batches"][0]["contestants"] if each["name"] == "teacher"]
    assert (found["differing"], found["different"]) == (1, [2])


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
    without = ("deferral", "deferral-lockstep", "verified", *CT2)
    assert plan.names == [name for name in SYSTEMS if name not in without]
    assert plan.notes[0].startswith("without deferral, deferral-lockstep, verified: ")
    assert plan.notes[1] == f"without {', '.join(CT2)}: it is not there"
    assert plan.notes[2] == "rows has 2 of the 9 rows asked for"
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


def timing(seconds: float, tokens: int, **others: object) -> Timing:
    """Of two texts as long as each other."""
    texts = [[4] * (tokens // 2)] * 2
    plain = Timing(seconds, texts, 0, 0, 0, 0, [["student", "decode", 1, 1, 32, 1, tokens]], None)
    return dataclasses.replace(plain, **others)


def held(setting: WorkloadFacts, batch_size: int, timings: dict[str, Timing]) -> Round:
    """A round whose forward passes took what `Given` says."""
    timer = Given(make_pair("llama"), setting.source)
    time_forwards(setting, batch_size, timings, timer, lambda: None)
    return Round([], [0.0], timings, MACHINE, [[*shape, seconds] for shape, seconds in timer.known.items()])


class Given(ForwardTimer):
    """A student's 0.01, a teacher's 0.1 and 0.02 for each further token; a lean one takes half."""

    def seconds(self, shape: Shape) -> float:
        seconds = 0.01 if shape.model == "student" else 0.1 + 0.02 * (shape.width - 1)
        self.known[shape] = seconds / 2 if shape.kind.startswith("lean") else seconds
        return self.known[shape]


ABOUT = {
    "task": "t", "rows": 2, "student": "s", "teacher": "p", "dtype": "float32", "processor": "cpu", "threads": 1,
    "load_average": [0.0],
}  # fmt: skip


@pytest.fixture
def by_hand() -> Speed:
    setting = WorkloadFacts(rows=2, prefix=1, source=0, longest=10, draft=2, budget=0.2, place="t|2|s|p")
    teacher = [["teacher", "decode", 1, 1, 32, 1, 20]]
    drafts = {"teacher_tokens": 10, "drafted": 12, "accepted": 6, "checked": 12}
    both = [["student", "decode", 1, 1, 32, 1, 12], ["teacher", "decode", 2, 3, 32, 3, 4]]
    rounds = [
        held(setting, 1, {
            "hf-teacher": timing(4.0 * slow, 20, teacher_tokens=20, passes=teacher),
            "student": timing(0.5 * slow, 40),
            "deferral": timing(2.0 * slow, 20, teacher_tokens=4, forward_seconds=1.6),
            "speculative": timing(1.0 * slow, 20, outputs=[[5] * 10, [3 + slow] * 10], **drafts, passes=both),
        })
        for slow in (1, 2)
    ]  # fmt: skip
    shown = summarise(setting, 1, rounds, make_pair("llama"))
    return Speed(ABOUT, ["a note"], [shown])


def test_the_figures_by_hand(by_hand: Speed) -> None:
    figures = {each.name: each for each in by_hand.batches[0].figures}
    teacher, student, deferral = figures["hf-teacher"], figures["student"], figures["deferral"]
    speculative = figures["speculative"]
    assert (teacher.tokens_per_second.low, teacher.tokens_per_second.high) == (2.5, 5.0)
    assert student.speedup.low == student.speedup.high == 16.0, "of the same round, however slow it was"
    assert teacher.scheduler_overhead.low == pytest.approx(4.0 / (20 * 0.1))
    assert teacher.distance is not None and teacher.distance.low == pytest.approx(4.0 / (20 * 0.1))
    assert student.limit_tokens_per_second == pytest.approx(100.0)
    assert (deferral.use, student.use, teacher.use) == (0.2, 0.0, 1.0)
    # A token costs 0.01 + 0.2 t_p(5) = 0.046.
    assert deferral.distance is not None and deferral.distance.high == pytest.approx(4.0 / (20 * 0.046))
    assert deferral.loop_overhead == Spread(1.875, 1.25, 2.5), "each round over its own forwards"
    assert teacher.loop_overhead is None, "transformers does not tell"
    assert (speculative.acceptance, speculative.waste_per_pass) == (0.5, 6 / 8)
    assert speculative.passes_per_token == {"student": 12 / 20, "teacher": 8 / 20}
    assert speculative.positions_per_token == {"student": 12 / 20, "teacher": 24 / 20}
    # (2 t_q + t_p(3)) / E(0.5, 2) = 0.16 / 1.75.
    assert speculative.limit_tokens_per_second == pytest.approx(1.75 / 0.16)
    assert speculative.scheduler_overhead.low == pytest.approx(1.0 / (12 * 0.01 + 4 * 0.14))
    assert (speculative.differing, deferral.differing) == (2, None), "the worst round counts"
    assert (speculative.different, speculative.equal, teacher.equal) == ([0, 1], 0.5, 1.0), "equal is of the first one"
    student_step, teacher_step, verification = by_hand.batches[0].forwards
    assert (student_step.seconds.median, teacher_step.seconds.median) == (0.01, 0.1)
    cost = ForwardTimer(make_pair("llama"), 0).cost(Shape("teacher", "decode", 1, 3, 32, 3))
    assert verification.overhead.median == pytest.approx(0.14 / max(cost.moved / 1e10, cost.flops / 1e11))


def test_each_round_is_held_against_its_own_forward_passes() -> None:
    """A machine that is half as fast in one round slows both sides: the ratios stand."""
    setting = WorkloadFacts(rows=2, prefix=1, source=0, longest=10, draft=2, budget=0.2, place="t")
    passes = [["teacher", "decode", 1, 1, 32, 1, 20]]
    fast = held(setting, 1, {"hf-teacher": timing(4.0, 20, teacher_tokens=20, passes=passes)})
    slow = held(setting, 1, {"hf-teacher": timing(8.0, 20, teacher_tokens=20, passes=passes)})
    slow = dataclasses.replace(slow, forwards=[[*shape, 2 * seconds] for *shape, seconds in slow.forwards])
    (figures,) = summarise(setting, 1, [fast, slow], make_pair("llama")).figures
    assert figures.scheduler_overhead == figures.distance == Spread(2.0, 2.0, 2.0)


def test_ours_are_held_against_the_lean_passes_that_they_ran() -> None:
    """And not against the library's, beside which a slow loop would look fast."""
    setting = WorkloadFacts(rows=2, prefix=1, source=0, longest=10, draft=2, budget=0.2, place="t")
    rounds = [
        held(setting, 1, {
            "hf-teacher": timing(4.0, 20, teacher_tokens=20, passes=[["teacher", "decode", 1, 1, 32, 1, 20]]),
            "teacher": timing(2.0, 20, teacher_tokens=20, passes=[["teacher", "lean", 1, 1, 32, 1, 20]]),
            "student": timing(0.4, 20, passes=[["student", "decode", 1, 1, 32, 1, 20]]),
        })
    ]  # fmt: skip
    shown = summarise(setting, 1, rounds, make_pair("llama"))
    theirs, teacher, student = shown.figures
    assert theirs.scheduler_overhead.median == theirs.distance.median == pytest.approx(4.0 / (20 * 0.1))
    assert teacher.scheduler_overhead.median == teacher.distance.median == pytest.approx(2.0 / (20 * 0.05))
    assert student.distance.median == pytest.approx(0.4 / (20 * 0.01)), "the engine has none for this one"
    assert teacher.passes_per_token == {"student": 0.0, "teacher": 1.0}
    seconds = {(each.model, each.kind, each.width): each.seconds.median for each in shown.forwards}
    assert seconds == {
        ("student", "decode", 1): 0.01, ("teacher", "decode", 1): 0.1, ("teacher", "lean", 1): 0.05,
        ("teacher", "decode", 3): pytest.approx(0.14), ("teacher", "lean", 3): pytest.approx(0.07),
    }  # fmt: skip
    assert "teacher, fast path, 1 x 1: 50.00 ms" in as_text(Speed(ABOUT, [], [shown]))


def test_sources_are_part_of_the_limit_in_whose_way_they_are_read() -> None:
    setting = WorkloadFacts(rows=2, prefix=1, source=5, longest=10, draft=2, budget=0.2, place="t")
    passes = {kind: [["teacher", kind, 1, 1, 32, 1, 20]] for kind in ("decode", "lean")}
    who = {"hf-teacher": "decode", "teacher": "lean"}
    rounds = [
        held(setting, 1, {name: timing(2.0, 20, teacher_tokens=20, passes=passes[kind]) for name, kind in who.items()})
    ]
    theirs, ours = summarise(setting, 1, rounds, make_pair("llama")).figures
    # Five more positions, read at once for each of two rows, and 20 tokens one after the other.
    assert theirs.limit_tokens_per_second == pytest.approx(20 / (2 * (0.1 + 4 * 0.02) + 20 * 0.1))
    assert ours.limit_tokens_per_second == pytest.approx(2 * theirs.limit_tokens_per_second)


def test_prompts_are_part_of_the_limit() -> None:
    setting = WorkloadFacts(rows=4, prefix=6, source=0, longest=10, draft=2, budget=0.2, place="t")
    rounds = [held(setting, 2, {"hf-teacher": timing(1.0, 20, teacher_tokens=20), "student": timing(1.0, 20)})]
    teacher, student = summarise(setting, 2, rounds, make_pair("llama")).figures
    # Two batches of two rows: prompts without their last token, then 20 tokens in passes of two.
    assert teacher.limit_tokens_per_second == pytest.approx(20 / (2 * (0.1 + 4 * 0.02) + 20 * 0.1 / 2))
    assert student.limit_tokens_per_second == pytest.approx(20 / (2 * 0.01 + 20 * 0.01 / 2))


def test_the_table_shows_what_there_is(by_hand: Speed) -> None:
    shown = as_text(by_hand)
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line and not line.startswith("note")}
    (speed, _) = (line.split() for line in shown.splitlines() if line.startswith("deferral "))
    assert speed[1:] == ["3.000", "7.5", "(5-10)", "2.00", "(2.00-2.00)", "0.20", "1.00"]
    assert "medians of 2 rounds; the fastest teacher alone: hf-teacher:" in shown
    assert "1.88" in lines["deferral"] and "loop: seconds over" in shown
    assert lines["speculative"][-1] == "2" and "note: a note" in shown
    assert "WARNING: batch size 1: 2 outputs of speculative are not those of hf-teacher" in shown
    cells = {line["contestant"]: line for line in csv.DictReader(io.StringIO(as_csv(by_hand)))}
    assert (cells["deferral"]["use"], cells["deferral"]["acceptance"]) == ("0.2", "")
    assert (cells["deferral"]["loop_overhead_low"], cells["hf-teacher"]["loop_overhead_low"]) == ("1.25", "")
    assert (cells["speculative"]["differing"], cells["speculative"]["same_as"]) == ("2", "hf-teacher")


def test_quality_is_beside_the_speed(by_hand: Speed) -> None:
    (batch,) = by_hand.batches
    scores = {"hf-teacher": 41.5, "student": 32.25, "deferral": 38.0, "speculative": 41.5}
    figures = [
        dataclasses.replace(each, quality={"bleu": {
            "value": scores[each.name], "difference": scores[each.name] - 41.5, "low": -12.0, "high": -0.5}})
        for each in batch.figures
    ]  # fmt: skip
    speed = dataclasses.replace(by_hand, batches=[dataclasses.replace(batch, figures=figures)])
    (shown, _) = (line.split() for line in as_text(speed).splitlines() if line.startswith("deferral "))
    assert shown[7:] == ["1.00", "38.0", "-3.5", "[-12.0,", "-0.5]"]
    cells = {line["contestant"]: line for line in csv.DictReader(io.StringIO(as_csv(speed)))}
    assert (cells["student"]["bleu_value"], cells["student"]["bleu_difference"]) == ("32.25", "-9.25")
    texts = [text.get_text() for text in drawn(draw, speed.to_json()).axes[0].texts]
    assert {"bleu", "times", "32.2", "38.0"} <= set(texts) and texts.count("41.5") == 2


def test_the_picture_has_a_ratio_and_a_limit_for_each(by_hand: Speed) -> None:
    figure = drawn(draw, by_hand.to_json())
    (axes,) = figure.axes
    shown = by_hand.batches[0].figures
    ratios = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert ratios == pytest.approx([each.speedup.median for each in shown])
    assert [label.get_text() for label in axes.get_yticklabels()] == [each.label for each in shown]
    reference = next(each.tokens_per_second.median for each in shown if each.name == "hf-teacher")
    limits = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"]
    assert limits == [each.limit_tokens_per_second / reference for each in shown]
    texts = [*axes.get_yticklabels(), *axes.texts, axes._left_title, axes.xaxis.label, figure._suptitle]
    boxes = [text.get_window_extent() for text in [*texts, *figure.legends]]
    for number, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_the_format_of_the_weights_is_said() -> None:
    assert number_format(SpeedConfig()) == "float32"
    assert number_format(SpeedConfig(teacher_weights="int8")) == "float32, teacher weights int8"
    both = SpeedConfig(student_weights="auto", teacher_weights="bfloat16")
    assert number_format(both) == "float32, student weights auto, teacher weights bfloat16"
