"""Texts that come and go while the engine runs: they are written as by a list of them, and those cancelled leave."""

import pytest

from tests.decoding.tiny import make_pair, with_ends
from tests.marks import spread
from wheels.decoding.engine import Engine
from wheels.decoding.methods.method import Method, deferral, speculative, verified
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.scheduler import Schedule
from wheels.decoding.sequences import Sequence, prepare_sequences
from wheels.decoding.streaming import decode
from wheels.models.pair import Pair

TEXTS = ["a b c", "d", "e f", "b", "c d e a b", "a a"]
PARAMS = DecodeParams(max_new_tokens=9, sampling=Sampling(1.0), seed=3)
METHODS = {
    "deferral": deferral(RULES["random"], 0.5),
    "strict": deferral(RULES["random"], 0.5, "strict"),
    "verified": verified(RULES["random"], 0.4, tolerance=0.1),
    "speculative": speculative(3),
}


def open_engine(pair: Pair, method: Method, batch_size: int = 2) -> tuple[Engine, list[Sequence]]:
    """An engine without a text, and some to submit."""
    rows = prepare_sequences(pair, TEXTS, PARAMS.max_new_tokens)
    for row in rows:
        row.seed = PARAMS.seed
    return Engine(pair, [], method, PARAMS, batch_size=batch_size, schedule=Schedule(group=2), more=True), rows


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), spread(["t5", "llama"], METHODS))
def test_texts_that_come_late_are_written_as_in_a_list(family, method):
    """One is submitted before each step, the longest among them late; what is final is never taken back."""
    pair = with_few_ends(family)
    expected = decode(pair, TEXTS, METHODS[method], PARAMS, batch_size=2)
    engine, rows = open_engine(pair, METHODS[method])
    late, ended, shown = list(rows), list[Sequence](), {row.index: list[int]() for row in rows}
    while late or engine.busy:
        if late:
            engine.submit(late.pop(0))
        ended += engine.step()
        for row in rows:
            known = row.tokens[: len(row.tokens) if row in ended else engine.final(row)]
            assert known[: len(shown[row.index])] == shown[row.index]
            shown[row.index] = known
    assert len(ended) == len(rows) and len(engine.texts.free()) == 3
    for row, trace in zip(rows, expected, strict=True):
        assert (tuple(row.tokens), shown[row.index]) == (trace.token_ids, row.tokens)
        assert row.by_teacher == [author == "teacher" for author in trace.authors]


def with_few_ends(family: str) -> Pair:
    """A tiny pair whose texts have some length."""
    pair = make_pair(family)
    with_ends(pair, 5)
    return pair


def test_drafts_are_not_final():
    """The negative control of what is shown: drafts are rolled back."""
    pair = with_few_ends("llama")
    engine, rows = open_engine(pair, METHODS["speculative"])
    engine.submit(rows[0])
    taken_back, before = False, list[int]()
    while engine.busy:
        engine.step()
        taken_back |= rows[0].tokens[: len(before)] != before
        before = list(rows[0].tokens)
    assert taken_back


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), spread(METHODS, [0, 1, 2, 3, 5]))
def test_a_cancelled_text_leaves_at_once_and_changes_no_other(method, steps):
    """Whether it waits, runs or calls; its slot is another's, and nothing of it comes out."""
    pair = with_few_ends("llama")
    expected = decode(pair, TEXTS, METHODS[method], PARAMS, batch_size=2)
    engine, rows = open_engine(pair, METHODS[method])
    for row in rows:
        engine.submit(row)
    ended = [row for _ in range(steps) for row in engine.step()]
    gone = [row for row in (rows[0], rows[-1]) if not any(row is each for each in ended)]
    for row in gone:
        engine.cancel(row)
        assert all(each is not row for each in [*engine.texts.sequences, *engine.waiting])
    written = [len(row.tokens) for row in gone]
    ended += engine.run()
    assert [len(row.tokens) for row in gone] == written
    assert {row.index for row in ended} == {row.index for row in rows} - {row.index for row in gone}
    assert len(engine.texts.free()) == 3 and not engine.busy
    for row in ended:
        assert tuple(row.tokens) == expected[row.index].token_ids


def test_the_online_threshold_counts_what_a_cancelled_text_wrote():
    pair = with_few_ends("llama")
    engine, rows = open_engine(pair, deferral(RULES["random"], 0.5, "online"), batch_size=4)
    for row in rows[:4]:
        engine.submit(row)
    for _ in range(3):
        engine.step()
    for row in rows[:4]:
        engine.cancel(row)
    assert engine.online is not None and not engine.busy
    threshold = engine.online.thresholds[0.5]
    assert threshold.tokens == sum(len(row.tokens) for row in rows) > 0
    assert threshold.calls == sum(sum(row.by_teacher) for row in rows)
