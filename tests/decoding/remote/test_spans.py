"""Calls that buy several tokens: the teacher's own, no more than there is room for, and counted as they come."""

import math
from typing import Any

import pytest

from tests.decoding.tiny import write
from tests.envs.tiny import SOURCES
from wheels.decoding.methods.method import teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.span import LONGEST, MOST, SpanRule
from wheels.decoding.teacher_forcing import teacher_choices
from wheels.decoding.trace import TEACHER, teacher_use
from wheels.errors import WheelsError

LONG = {"max_new_tokens": 12}
RANDOM = RULES["random"]


@pytest.mark.parametrize("size", [1, 4, 5, 12, 64])
def test_the_teacher_alone_writes_its_text_in_as_many_requests_as_that_takes(pair, server, far, size):
    there = far(server, span=f"tokens:{size}")
    traces = write(there, SOURCES, teacher_only(), budget=1.0, **LONG)
    here = write(pair, SOURCES, teacher_only(), budget=1.0, **LONG)
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in here]
    assert [trace.teacher_passes for trace in traces] == [math.ceil(trace.tokens / size) for trace in here]
    assert {body["max_tokens"] for body in server.asked} <= {min(size, 12), 12 % size}, "never beyond the limit"


def test_what_the_teacher_wrote_is_what_it_would_write_there(pair, server, far):
    there = far(server, span="tokens:3")
    traces = write(there, SOURCES, RANDOM, budget=0.5, mode="online", **LONG)
    own = teacher_choices(pair, pair.encode(SOURCES), [trace.token_ids for trace in traces])
    for trace, best in zip(traces, own, strict=True):
        wrote = [place for place, author in enumerate(trace.authors) if author == TEACHER]
        assert all(trace.token_ids[place] == best[place] for place in wrote)
    assert any(trace.teacher_tokens > trace.teacher_passes for trace in traces)


@pytest.mark.slow
def test_online_mode_counts_the_tokens_that_came(server, far):
    there = far(server, span="tokens:4")
    settings: dict[str, Any] = {"mode": "online", "max_new_tokens": 40, "batch_size": 1}
    uses = [teacher_use(write(there, SOURCES * 6, RANDOM, budget=budget, **settings)) for budget in (0.2, 0.6)]
    assert uses == pytest.approx([0.2, 0.6], abs=0.1)


@pytest.mark.parametrize("mode", ["average", "strict"])
def test_modes_that_count_on_one_token_a_call_are_refused(server, far, mode):
    there = far(server, span="tokens:4")
    with pytest.raises(
        WheelsError, match=f"a call buys up to 4 tokens, and {mode} mode counts on one: use budget_mode"
    ):
        write(there, SOURCES, RANDOM, budget=0.5, mode=mode, **LONG)


def test_a_stop_text_ends_the_call_and_not_the_text(pair, server, far):
    there = far(server)
    there.remote.span = SpanRule(12, ("g", "e"))
    traces = write(there, SOURCES, teacher_only(), budget=1.0, **LONG)
    here = write(pair, SOURCES, teacher_only(), budget=1.0, **LONG)
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in here]
    ends = set(pair.tokenizer.convert_tokens_to_ids(["g", "e"]))
    for trace in traces:
        inner = sum(token in ends for token in trace.token_ids[:-1])
        assert trace.teacher_passes == inner + 1
    assert any(trace.teacher_passes > 1 for trace in traces)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("tokens:1", SpanRule(1)),
        ("tokens:4096", SpanRule(MOST)),
        ("sentence", SpanRule(LONGEST, (". ", "! ", "? ", "\n"))),
        ("line", SpanRule(LONGEST, ("\n",))),
        ("auto", SpanRule(LONGEST, chosen=True)),
    ],
)
def test_spans_by_name(given, rule):
    assert SpanRule.of(given) == rule


@pytest.mark.parametrize(
    "given", ["", "tokens", "tokens:0", "tokens:4097", "tokens:-1", "tokens: 3", "word", "tokens:٣"]
)
def test_other_words_are_no_spans(given):
    with pytest.raises(WheelsError, match="span must be tokens:N, sentence or line with N in 1 to 4096, or auto, got"):
        SpanRule.of(given)
