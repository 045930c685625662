"""Long prompts, read a chunk a step: the texts are the same, and those beside them do not wait."""

import pytest

from tests.decoding.test_submit import METHODS
from tests.decoding.tiny import make_pair, with_ends
from tests.marks import spread
from wheels.decoding import read_ahead
from wheels.decoding.engine import Engine
from wheels.decoding.methods.method import deferral, student_only, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.scheduler import Schedule
from wheels.decoding.sequences import prepare_sequences
from wheels.decoding.streaming import decode
from wheels.models.pair import Pair

TEXTS = ["a b c d e f g h i j k a b c d e f g h i j k", "d", "e f b", "c d e a b c d e a b c d e", "a a"]
PARAMS = DecodeParams(max_new_tokens=9, sampling=Sampling(1.0), seed=3)


def llama() -> Pair:
    pair = make_pair("llama")
    with_ends(pair, 5)
    return pair


@pytest.mark.parametrize(("method", "chunk"), spread([*METHODS, "student", "teacher"], [1, 4, 7]))
def test_chunks_change_no_text(monkeypatch, method, chunk):
    how = METHODS | {"student": student_only(), "teacher": teacher_only()}
    pair, journal = llama(), {}
    whole = decode(pair, TEXTS, how[method], PARAMS, batch_size=3, schedule=Schedule(group=2))
    monkeypatch.setattr(read_ahead, "CHUNK", chunk)
    parts = decode(pair, TEXTS, how[method], PARAMS, batch_size=3, schedule=Schedule(group=2), journal=journal)
    for one, other in zip(whole, parts, strict=True):
        assert (one.token_ids, one.authors) == (other.token_ids, other.authors)
        counts = [(each.teacher_passes, each.student_passes, each.teacher_positions) for each in (one, other)]
        assert counts[0] == counts[1]
    widths = {model: max((each.width for each in passes), default=0) for model, passes in journal.items()}
    drafts = PARAMS.max_new_tokens
    assert all(width <= chunk + 1 + (drafts if model == "teacher" else 0) for model, width in widths.items())


def test_a_long_prompt_does_not_hold_up_the_others(monkeypatch):
    """A short text gains a token in each step in which a chunk is read; without chunks it would wait for the whole."""
    monkeypatch.setattr(read_ahead, "CHUNK", 3)
    pair = llama()
    with_ends(pair, 99)
    long, short, *_ = prepare_sequences(pair, TEXTS, PARAMS.max_new_tokens)
    engine = Engine(pair, [], student_only(), PARAMS, batch_size=4, more=True)
    engine.submit(short)
    engine.step()
    engine.submit(long)
    for steps in range(1, 7):
        engine.step()
        assert (len(short.tokens), len(long.tokens)) == (1 + steps, 0)
    engine.step()
    assert len(long.tokens) == 1, "after six chunks of three, one a step; the rest is read with its pass"


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_a_text_that_is_cancelled_while_its_prompt_is_read_leaves(monkeypatch, budget):
    monkeypatch.setattr(read_ahead, "CHUNK", 3)
    pair = llama()
    rows = prepare_sequences(pair, TEXTS, PARAMS.max_new_tokens)
    engine = Engine(pair, [], deferral(RULES["random"], budget), PARAMS, batch_size=4, more=True)
    engine.submit(rows[0])
    assert engine.step() == [] and engine.busy and engine.prompts.slots
    engine.cancel(rows[0])
    assert not engine.busy and engine.texts.free() == list(range(len(engine.texts.sequences)))
    engine.submit(rows[1])
    assert list(engine.run()) == [rows[1]]
