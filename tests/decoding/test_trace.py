"""Traces: the text of every token, and what is summed up."""

import json

import pytest

from wheels.decoding.trace import STUDENT, TEACHER, Trace, pieces_of, teacher_use


def trace_of(pieces: list[str], by_teacher: str, **change) -> Trace:
    """Return a trace; `by_teacher` has a `t` for each token that the teacher wrote."""
    values = {
        "text": "".join(pieces).strip(),
        "token_ids": tuple(range(len(pieces))),
        "spell": lambda ids: "".join(pieces[token] for token in ids),
        "authors": tuple(TEACHER if letter == "t" else STUDENT for letter in by_teacher),
        "teacher_passes": by_teacher.count("t"),
        "teacher_positions": by_teacher.rfind("t") + 1,
        "prompt_positions": 4 if "t" in by_teacher else 0,
        "budget": 0.2,
        "mode": "average",
        "rule": "learned",
        "seconds": 0.5,
        "finished": True,
    }
    return Trace(**(values | change))


def of_bytes(tokens: list[bytes]):
    """Return a decoder of byte tokens, as byte-level tokenizers have it."""
    return lambda ids: b"".join(tokens[index] for index in ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([b"ab", b" c"], ["ab", " c"]),
        ([b"a\xc3", b"\xa4b"], ["", "aäb"]),
        ([b"\xf0\x9f", b"\x99", b"\x82", b"!"], ["", "", "🙂", "!"]),
        ([b"x", b"\xe2\x82"], ["x", "�"]),  # cut in the middle of a character
        ([b"x", b"\xff", b"y"], ["x", "", "�y"]),  # a byte that is no text belongs to the token that shows it is none
        ([b"", b"a", b""], ["", "a", ""]),  # special tokens show nothing
        ([], []),
    ],
)
def test_each_token_has_the_text_that_it_adds(tokens, expected):
    pieces = pieces_of(of_bytes(tokens), list(range(len(tokens))))
    assert list(pieces) == expected
    assert "".join(pieces) == of_bytes(tokens)(range(len(tokens)))


def test_a_token_that_changes_what_stood_there_adds_only_what_is_new():
    shown = {1: "do", 2: "do n", 3: "don't"}
    assert pieces_of(lambda ids: shown[len(ids)], [5, 6, 7]) == ("do", " n", "n't")


def test_use_by_hand():
    trace = trace_of([" a", "b", "c", ""], "-t-t")
    assert (trace.tokens, trace.teacher_tokens, trace.teacher_use) == (4, 2, 0.5)
    assert teacher_use([trace, trace_of(["d"] * 6, "------")]) == 0.2, "by tokens, not the mean of 0.5 and 0"


def test_use_of_nothing_is_none():
    assert trace_of([], "").teacher_use == 0.0
    assert teacher_use([]) == teacher_use([trace_of([], "")]) == 0.0


COUNTS = {"student_passes": 7, "drafted": 5, "accepted": 3, "checked": 4}
RUNS = {"student": "onnx int8", "teacher": "torch float32"}


def test_json_has_everything():
    trace = trace_of([" a", "b\n", ""], "-t-", mode="strict", rule="entropy", finished=False, runs_on=RUNS, **COUNTS)
    assert json.loads(json.dumps(trace.to_json())) == {
        "text": "ab",
        "tokens": [
            {"text": " a", "id": 0, "author": "student"},
            {"text": "b\n", "id": 1, "author": "teacher"},
            {"text": "", "id": 2, "author": "student"},
        ],
        "teacher_use": 1 / 3,
        "teacher_tokens": 1,
        "teacher_passes": 1,
        "teacher_positions": 2,
        "prompt_positions": 4,
        "budget": 0.2,
        "mode": "strict",
        "rule": "entropy",
        "seconds": 0.5,
        "finished": False,
        "student_passes": 7,
        "drafted": 5,
        "accepted": 3,
        "acceptance": 0.75,
        "wasted": 2,
        "degraded": 0,
        "runs_on": RUNS,
    }
