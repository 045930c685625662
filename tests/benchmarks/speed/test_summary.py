"""From rounds to figures, tables and pictures, by hand."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from tests.decoding.tiny import make_pair
from tests.pictures import drawn
from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.speed.forward_timer import ForwardTimer, Machine, Shape
from wheels.benchmarks.speed.plot import draw
from wheels.benchmarks.speed.records import Round, Timing
from wheels.benchmarks.speed.summary import Speed, WorkloadFacts, must_repeat, summarise, time_forwards
from wheels.benchmarks.speed.systems import KNOWN
from wheels.benchmarks.speed.table import as_csv, as_text

MACHINE = Machine(bandwidth=1e10, peak=1e11)


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
    setting = WorkloadFacts(rows=2, prefix=1, source=0, longest=10, draft=2, budget=0.2, rounded=(), place="t|2|s|p")
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
    setting = WorkloadFacts(rows=2, prefix=1, source=0, longest=10, draft=2, budget=0.2, rounded=(), place="t")
    passes = [["teacher", "decode", 1, 1, 32, 1, 20]]
    fast = held(setting, 1, {"hf-teacher": timing(4.0, 20, teacher_tokens=20, passes=passes)})
    slow = held(setting, 1, {"hf-teacher": timing(8.0, 20, teacher_tokens=20, passes=passes)})
    slow = dataclasses.replace(slow, forwards=[[*shape, 2 * seconds] for *shape, seconds in slow.forwards])
    (figures,) = summarise(setting, 1, [fast, slow], make_pair("llama")).figures
    assert figures.scheduler_overhead == figures.distance == Spread(2.0, 2.0, 2.0)


def test_ours_are_held_against_the_lean_passes_that_they_ran() -> None:
    """And not against the library's, beside which a slow loop would look fast."""
    setting = WorkloadFacts(rows=2, prefix=1, source=0, longest=10, draft=2, budget=0.2, rounded=(), place="t")
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
    setting = WorkloadFacts(rows=2, prefix=1, source=5, longest=10, draft=2, budget=0.2, rounded=(), place="t")
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
    setting = WorkloadFacts(rows=4, prefix=6, source=0, longest=10, draft=2, budget=0.2, rounded=(), place="t")
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


def test_a_teacher_of_rounded_weights_need_not_write_what_the_exact_one_does() -> None:
    held_to = {name: must_repeat(system, ("teacher",)) for name, system in KNOWN.items()}
    assert {held_to[name] for name in ("teacher", "deferral", "ct2-teacher")} == {None}
    assert {held_to[name] for name in ("speculative", "lookup")} == {"teacher"}
    assert held_to["hf-assisted"] == "hf-teacher" and held_to["student"] == "hf-student"


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
