"""What a trace is told by the engine that wrote it."""

from dataclasses import replace

from tests.decoding.tiny import make_pair
from wheels.decoding.methods.method import teacher_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode


def test_a_trace_says_what_ran_both_models():
    pair = replace(make_pair("t5"), teacher_weights="int8")
    pair.teacher.float()
    traces = decode(pair, ["a b", "c"], teacher_only(), DecodeParams(max_new_tokens=2))
    expected = {"student": "transformers float64", "teacher": "torch int8"}
    assert [trace.runs_on for trace in traces] == [expected] * 2
