"""Rules that plan a whole text, as the engine asks them: evenly spaced calls, first tokens, and texts written whole."""

import pytest

from tests.decoding.commands.test_calibrate import LIMIT, soft_pair, sources
from tests.decoding.tiny import write
from wheels.decoding.commands.calibrate import calibrate
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES, RouterScore
from wheels.decoding.trace import TEACHER, teacher_use
from wheels.models.pair import Pair
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig


@pytest.fixture(scope="module")
def pair() -> Pair:
    return soft_pair()


def router(pair: Pair) -> Rule:
    """A router that was never trained: its gains differ from text to text."""
    head = DeferralHead(HeadConfig(feature_width(pair.student.config.hidden_size), width=8))
    return Rule("router", RouterScore(head.requires_grad_(False)))


def calls(traces) -> list[list[bool]]:
    return [[author == TEACHER for author in trace.authors] for trace in traces]


@pytest.mark.slow
def test_a_text_is_routed_whole_or_not_at_all(pair):
    rule = router(pair)
    (point,) = calibrate(pair, sources(), rule, [0.4], max_new_tokens=LIMIT)
    routed, student, teacher = (
        write(pair, sources(), rule.at(point.threshold), budget=budget, max_new_tokens=LIMIT, batch_size=7)
        for budget in (0.4, 0.0, 1.0)
    )
    whole = [all(called) for called in calls(routed)]
    assert 0 < sum(whole) < len(whole)
    for text, is_whole, own, other in zip(routed, whole, student, teacher, strict=True):
        assert text.token_ids == (other if is_whole else own).token_ids
        assert text.teacher_tokens == (text.tokens if is_whole else 0)
    assert any(own.token_ids != other.token_ids for own, other in zip(student, teacher, strict=True))


def test_first_k_writes_the_beginning_of_each_text(pair):
    traces = write(pair, sources(), RULES["first-k"].at(-2.5), budget=0.4, max_new_tokens=LIMIT)
    for called in calls(traces):
        assert called == sorted(called, reverse=True) and min(2, len(called)) <= sum(called) <= 3
    assert {sum(called) for called in calls(traces) if len(called) > 2} == {2, 3}


@pytest.mark.slow
def test_every_k_keeps_its_budget_on_texts_shorter_than_k(pair):
    rule = RULES["every-k"].at(0.9)
    traces = write(pair, sources(600), rule, budget=0.1, max_new_tokens=LIMIT)
    assert max(trace.tokens for trace in traces) < 10 and max(sum(called) for called in calls(traces)) == 1
    assert teacher_use(traces) == pytest.approx(0.1, abs=0.01)
    again = write(pair, sources(600), rule, budget=0.1, max_new_tokens=LIMIT, batch_size=7)
    assert [trace.authors for trace in again] == [trace.authors for trace in traces], "the phase belongs to the row"
    other = write(pair, sources(600), rule, budget=0.1, max_new_tokens=LIMIT, seed=1)
    assert [trace.authors for trace in other] != [trace.authors for trace in traces]
