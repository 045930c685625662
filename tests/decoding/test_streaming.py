"""What a trace is told by the engine that wrote it; and any number of texts, in order."""

from dataclasses import replace
from itertools import islice

import pytest

from tests.decoding.tiny import make_pair, with_ends
from tests.marks import slow
from wheels.decoding import streaming
from wheels.decoding.methods.method import deferral, speculative, student_only, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.streaming import decode, in_order
from wheels.errors import WheelsError


def test_a_trace_says_what_ran_both_models():
    pair = replace(make_pair("t5"), teacher_weights="int8")
    pair.teacher.float()
    traces = decode(pair, ["a b", "c"], teacher_only(), DecodeParams(max_new_tokens=2))
    expected = {"student": "transformers float64", "teacher": "torch int8"}
    assert [trace.runs_on for trace in traces] == [expected] * 2


TEXTS = ["a b c", "d", "e f g h", "a", "b c", "d e f"] * 6


@pytest.mark.slow
@pytest.mark.parametrize("method", [deferral(RULES["random"].at(0.5)), *slow(teacher_only(), speculative(2))])
def test_any_number_of_texts_is_written_in_order_as_if_at_once(monkeypatch, method):
    pair, params = make_pair("t5"), DecodeParams(max_new_tokens=6, sampling=Sampling(1.0), seed=3)
    monkeypatch.setattr(streaming, "BLOCK", 4)
    read = []
    traces = list(in_order(pair, (read.append(text) or text for text in TEXTS), method, params, batch_size=1))
    expected = decode(pair, TEXTS, method, params, batch_size=1)
    assert [trace.to_json() | {"seconds": 0} for trace in traces] == [e.to_json() | {"seconds": 0} for e in expected]
    assert read == TEXTS


def test_no_more_than_so_many_texts_are_written_ahead_of_one_that_goes_on(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 4)
    pair = with_ends(make_pair("t5"), [])
    params = DecodeParams(max_new_tokens=40, stopping=lambda index, tokens: index > 0)

    def most_ahead(ahead: int) -> int:
        monkeypatch.setattr(streaming, "AHEAD", ahead)
        read = []
        texts = (read.append(text) or text for text in TEXTS)
        return max(len(read) - n for n, _ in enumerate(in_order(pair, texts, student_only(), params, batch_size=2)))

    assert most_ahead(1) == 16 and most_ahead(9) == len(TEXTS)


@pytest.mark.slow
def test_a_text_that_cannot_be_read_stops_what_comes_after_its_block(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 4)
    texts, pair, params = [*TEXTS[:9], "a " * 80, *TEXTS], make_pair("t5"), DecodeParams(max_new_tokens=2)
    written = in_order(pair, texts, student_only(), params, batch_size=1)
    assert len(list(islice(written, 3))) == 3
    with pytest.raises(WheelsError, match="input 10 has 81 tokens"):
        list(written)
    traces = list(in_order(pair, texts, student_only(), params, batch_size=1, on_error="skip"))
    assert [n for n, trace in enumerate(traces) if trace.error] == [9] and len(traces) == len(texts)


def test_no_texts_have_no_outputs():
    assert list(in_order(make_pair("t5"), [], student_only())) == []
