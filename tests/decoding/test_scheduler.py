"""When the teacher runs and for whom: decisions by hand, and what holds of all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoding.tiny import make_pair, with_ends
from wheels.decoding.engine import Engine
from wheels.decoding.methods.method import deferral, student_only, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.decoding.scheduler import Schedule
from wheels.decoding.sequences import prepare_sequences
from wheels.errors import WheelsError

LOCKSTEP = Schedule("lockstep")
CASES = [
    ("nobody calls", Schedule(), [3, 1, 2], [], 0, ("student", [3, 1, 2])),
    ("too few wait", Schedule(), [3], [1], 0, ("student", [3])),
    ("enough wait", Schedule(), [3], [1, 2], 0, ("teacher", [1, 2])),
    ("nobody else can go on", Schedule(), [], [1], 0, ("teacher", [1])),
    ("patience is over", Schedule(patience=5), [3], [1], 5, ("teacher", [1])),
    ("patience is not over", Schedule(patience=5), [3], [1], 4, ("student", [3])),
    ("the oldest go first", Schedule(), [4, 3, 2, 1, 0], [], 0, ("student", [4, 3, 2])),
    ("the longest waits go first", Schedule(), [], [4, 3, 2, 1, 0], 0, ("teacher", [4, 3, 2])),
    ("lockstep never waits", LOCKSTEP, [3, 4], [1], 0, ("teacher", [1])),
    ("lockstep goes on", LOCKSTEP, [3, 4], [], 0, ("student", [3, 4])),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_who_runs_by_hand(case):
    """In passes of three rows, a teacher pass is worth it for two."""
    _, schedule, running, calling, waited, expected = case
    assert schedule.next(running, calling, waited, 3, 2) == expected


def test_a_group_is_never_more_than_a_pass():
    assert Schedule().next([9], [1, 2, 3], 0, batch_size=3, group=64) == ("teacher", [1, 2, 3])


@pytest.mark.parametrize(
    ("schedule", "batch_size", "group", "count"),
    [
        (Schedule(), 8, 1, 8),
        (Schedule(), 8, 3, 10),
        (Schedule(), 8, 50, 15),
        (Schedule(), 1, 1, 1),
        (LOCKSTEP, 8, 3, 8),
    ],
)
def test_texts_in_flight(schedule, batch_size, group, count):
    assert schedule.in_flight(batch_size, group) == count


@given(
    kind=st.sampled_from(["grouped", "lockstep"]),
    patience=st.integers(1, 6),
    batch_size=st.integers(1, 6),
    group=st.integers(1, 9),
    calls=st.lists(st.booleans(), min_size=1, max_size=120),
)
def test_no_pass_is_empty_and_nobody_waits_for_ever(kind, patience, batch_size, group, calls):
    """Rows call at random; passes of grouped schedules are full wherever texts in flight allow it."""
    schedule = Schedule(kind, patience=patience)
    flight = schedule.in_flight(batch_size, group)
    running, calling, since, clock = list(range(flight)), [], {}, 0
    for turn, _ in enumerate(calls):
        model, rows = schedule.next(running, calling, clock - since[calling[0]] if calling else 0, batch_size, group)
        assert 1 <= len(rows) <= batch_size and set(rows) <= set(calling if model == "teacher" else running)
        if model == "teacher":
            calling, running = calling[len(rows) :], running + rows
            continue
        assert kind == "grouped" or len(rows) == len(running), "in lockstep all that can go on go on"
        waits_full = len(rows) == batch_size or len(calling) < min(group, batch_size)
        assert waits_full and (kind == "lockstep" or len(rows) == batch_size), "a pass with a free place"
        assert not calling or clock - since[calling[0]] < patience
        clock += 1
        asking = [row for place, row in enumerate(rows) if calls[(turn + place) % len(calls)]]
        running = [row for row in running if row not in asking]
        calling += asking
        since.update(dict.fromkeys(asking, clock))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "groupd"}, "schedule must be one of grouped, lockstep, got 'groupd'; did you mean 'grouped'"),
        ({"group": 0}, "group must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
    ],
)
def test_a_wrong_schedule_is_refused(values, message):
    with pytest.raises(WheelsError, match=message):
        Schedule(**values)


@pytest.mark.parametrize(("budget", "texts"), [(0.0, 4), (1.0, 4), (0.5, 6), ([0.0, 0.5] * 6, 6)])
def test_more_texts_than_a_batch_are_in_flight_only_where_both_models_write(budget, texts):
    pair = make_pair("llama")
    rows = prepare_sequences(pair, ["a b", "c"] * 6, 4)
    engine = Engine(pair, rows, deferral(RULES["random"], budget), DecodeParams(), batch_size=4,
                    schedule=Schedule(group=3))  # fmt: skip
    assert len(engine.texts.sequences) == texts


def test_the_text_that_has_run_the_longest_goes_first():
    """A text that comes back from the teacher stands before those that began after it, whatever their slots are."""
    pair = make_pair("llama")
    rows = prepare_sequences(pair, ["a b", "c", "d e", "f"], 4)
    engine = Engine(
        pair, rows, deferral(RULES["random"], 0.5), DecodeParams(), batch_size=2, schedule=Schedule(group=2)
    )
    engine._admit()
    first, second, *_ = slots = list(engine.running)
    assert len(slots) == 3
    for slot in (second, first):
        engine.running.remove(slot)
        engine._run(slot)
    assert engine.running == slots
    engine.texts.sequences[first] = None
    engine.running.remove(first)
    engine._admit()
    assert engine.running == [*slots[1:], first], "another text in the slot of the oldest"


def test_texts_are_let_in_several_at_a_time_while_others_run():
    """A quarter of a batch, so that their sources are read together; one by one only where nobody runs."""
    pair = make_pair("llama")
    rows = prepare_sequences(pair, ["a b"] * 20, 4)
    engine = Engine(pair, rows, student_only(), DecodeParams(), batch_size=8)
    engine._admit()
    assert len(engine.waiting) == 12 and not engine.texts.free()
    for leaving, waiting in ((1, 12), (1, 10), (1, 10)):
        for slot in engine.running[:leaving]:
            engine.running.remove(slot)
            engine.texts.sequences[slot] = None
        engine._admit()
        assert len(engine.waiting) == waiting
    engine.running.clear()
    engine._admit()
    assert len(engine.waiting) == 9


def test_one_model_alone_reads_its_cache_as_it_lies():
    pair = make_pair("llama")
    rows = prepare_sequences(pair, ["a b", "c d"] * 6, 4)
    with_ends(pair, 99)
    engine = Engine(pair, rows, teacher_only(), DecodeParams(), batch_size=4)
    asked = []
    read = engine.passes.teacher.read
    engine.passes.teacher.read = lambda rows_R, *rest: asked.append(rows_R) or read(rows_R, *rest)
    assert len(list(engine.run())) == 12 and asked and all(rows_R is None for rows_R in asked)
