"""One price for the call and for the trust in the draft: its limits, its tolerance, its longest draft."""

import math

import pytest

from tests.decoding.test_engine import LIMIT, TEXTS, outcome
from tests.decoding.test_speculative import expected_texts, shared
from tests.decoding.tiny import SEQ2SEQ, write
from wheels.decoding.methods.method import deferral, priced
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.methods.verify import ThresholdVerifier
from wheels.errors import WheelsError


def randomly(rate: float) -> Rule:
    """A rule with a threshold, as a price has one."""
    return RULES["random"].at(1.0 - rate)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_a_price_that_trusts_all_is_plain_deferral_and_one_that_trusts_nothing_is_the_teacher(family):
    request = {"budget": 0.4, "max_new_tokens": LIMIT, "seed": 2}
    plain = write(shared(family), TEXTS[:8], deferral(randomly(0.4)), **request)
    trusting = write(shared(family), TEXTS[:8], priced(randomly(0.4), scale=math.inf), **request)
    assert outcome(plain) == outcome(trusting)
    strict = priced(randomly(0.4), scale=0.0, complete=True, draft=6)
    traces = write(shared(family), TEXTS[:8], strict, **request)
    assert [trace.token_ids for trace in traces] == expected_texts(family, "teacher")[:8]
    assert outcome(plain) != outcome(traces) and any(trace.accepted for trace in traces)


@pytest.mark.parametrize(
    ("threshold", "given", "nats"),
    [
        (2.0, {}, 2.0),
        (2.0, {"scale": 0.5}, 1.0),
        (2.0, {"scale": 0.5, "offset": 0.25}, 1.25),
        (2.0, {"scale": 0.5, "offset": -3.0}, 0.0),
        (-1.0, {}, 0.0),  # a price below 0 lets nothing pass
        (math.inf, {"draft": 4}, math.inf),
        (math.inf, {"scale": 0.0, "draft": 4}, 0.0),
        (-math.inf, {"scale": 0.0}, 0.0),
        (-math.inf, {}, 0.0),
        (-1.0, {"scale": math.inf}, math.inf),
    ],
)
def test_the_tolerance_follows_the_price(threshold, given, nats):
    method = priced(RULES["entropy"].at(threshold), **given)
    assert method.verifier == ThresholdVerifier(nats, "regret") and method.rule.threshold == threshold


def test_a_row_calls_anyway_where_its_draft_is_longest():
    method = priced(RULES["entropy"], draft=2)  # never calls by itself
    traces = write(shared("t5"), TEXTS, method, max_new_tokens=LIMIT)
    for trace in traces:
        third = ["teacher" if place % 3 == 2 else "student" for place in range(trace.tokens)]
        assert list(trace.authors) == third and trace.teacher_passes == third.count("teacher")
    assert any(trace.teacher_passes for trace in traces)


def test_the_end_is_verified_where_that_is_asked_for():
    never = RULES["entropy"].at(2.0)
    alone, verified = (priced(never, scale=0.0, complete=complete) for complete in (False, True))
    assert verified.complete and not alone.complete
    traces = write(shared("t5"), TEXTS[:8], verified, budget=0.4, max_new_tokens=LIMIT)
    assert [trace.token_ids for trace in traces] == expected_texts("t5", "teacher")[:8]


def test_a_scale_below_0_is_refused():
    with pytest.raises(WheelsError, match="scale must be at least 0, got -1"):
        priced(RULES["entropy"], scale=-1.0)
