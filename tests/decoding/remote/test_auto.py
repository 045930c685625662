"""Calls that say how much they buy: by what that gains for its cost."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.decoding.tiny import write
from tests.envs.tiny import SOURCES
from wheels.decoding.across.pair import TextPair
from wheels.decoding.methods.calibrated import rule_of
from wheels.decoding.methods.rules import HeadScore
from wheels.decoding.remote.auto import ROUND_TRIP, SpanScore
from wheels.decoding.remote.prices import Prices
from wheels.decoding.teacher_forcing import teacher_choices
from wheels.decoding.trace import TEACHER
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.policy.calibration import Calibration
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig
from wheels.policy.span_head import SpanHead

LONG = {"max_new_tokens": 12}


def says(spans: tuple[int, ...], *outputs: float) -> SpanHead:
    """Return a span head that says the same of every state."""
    head = SpanHead(spans).requires_grad_(False)
    head.net[-1].weight.zero_()
    head.net[-1].bias.zero_()
    head.centre_Y.copy_(torch.tensor(outputs))
    return head


def state(*, read: int = 10, calls: int = 0) -> Any:
    return SimpleNamespace(
        features_BF=torch.zeros(1, feature_width(4)),
        budget_B=torch.zeros(1),
        source_B=torch.tensor([read - 3]),
        position_B=torch.tensor([3]),
        calls_B=torch.tensor([calls]),
    )


def test_a_call_buys_what_gains_most_at_the_price_of_its_cost():
    score = SpanScore(HeadScore(None), says((2, 4), 1.0, 3.0, 2.0, 4.0), None)
    costs = [1.0, (ROUND_TRIP + 2) / (ROUND_TRIP + 1), (ROUND_TRIP + 4) / (ROUND_TRIP + 1)]
    for price in (0.0, 2.0, 5.1, 7.0):
        values = [more - price * cost for more, cost in zip((0.0, 1.0, 3.0), costs, strict=True)]
        assert score.sizes(state(), torch.tensor([price])) == [(1, 2, 4)[values.index(max(values))]]
    assert {score.sizes(state(), torch.tensor([price]))[0] for price in (0.0, 7.0)} == {1, 4}


def test_reading_a_text_again_costs_what_a_cached_token_does():
    """So a span, whose tokens cost as much in both, is worth more where reading is dear."""
    score = SpanScore(HeadScore(None), says((2,), 1.0, 2.0), Prices(0.4, 1.6, 0.1))
    first, later = (0.4 * 10 + 3.2) / (0.4 * 10 + 1.6), (0.1 * 10 + 3.2) / (0.1 * 10 + 1.6)
    middle = torch.tensor([(1 / (first - 1) + 1 / (later - 1)) / 2])
    assert score.sizes(state(), middle) == [2] and score.sizes(state(calls=1), middle) == [1]
    free = SpanScore(HeadScore(None), says((2,), 1.0, 2.0), Prices(0.0, 0.0))
    assert free.sizes(state(), torch.tensor([9.0])) == [2], "what costs nothing is bought"


def artefact_of(pair: Any, spans: list[SpanHead]) -> Artefact:
    width = feature_width(pair.student.config.hidden_size)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        head = DeferralHead(HeadConfig.of(width, pair.vocab_size, 8)).requires_grad_(False)
    head.base.weight *= 8
    return Artefact(pair, {"learned": [head], "gate": [head]}, Calibration(), spans=spans)


def varied() -> SpanHead:
    """Return a span head that says another thing of each state."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = SpanHead((2, 4)).requires_grad_(False)
    for layer in (head.net[0], head.net[-1]):
        layer.weight *= 4
    head.unit_Y.copy_(torch.tensor([1.0, 2.0, 2.0, 3.0]))
    return head


@pytest.mark.slow
def test_what_is_bought_depends_on_the_state_alone(pair, server, far):
    """Not on other texts, nor on what the student writes meanwhile; and the teacher wrote all of it."""
    found = []
    for size, settings in ((1, {}), (1, {"write_on": False}), (4, {})):
        there = far(server, span="auto", **settings)
        rule = rule_of(artefact_of(there, [varied()]), "learned").at(-0.3)
        traces = write(there, SOURCES, rule, batch_size=size, **LONG)
        found.append([(trace.token_ids, trace.authors, trace.teacher_passes) for trace in traces])
    assert found[0] == found[1] == found[2]
    asked = {body["max_tokens"] for body in server.asked}
    assert {1, 4} <= asked <= {1, 2, 3, 4}, "some of one token, others of more"
    own = teacher_choices(pair, pair.encode(SOURCES), [trace.token_ids for trace in traces])
    for trace, best in zip(traces, own, strict=True):
        wrote = [place for place, author in enumerate(trace.authors) if author == TEACHER]
        assert all(trace.token_ids[place] == best[place] for place in wrote)
    assert any(trace.teacher_tokens < trace.tokens for trace in traces)


def test_calls_of_several_lengths_go_out_side_by_side(server, far):
    there = far(server, span="auto", write_on=False)
    server.fault, server.most_at_once = lambda *_: bool(time.sleep(0.1)), 0
    rule = rule_of(artefact_of(there, [varied()]), "learned").at(-9.0)
    write(there, SOURCES, rule, batch_size=len(SOURCES), **LONG)
    assert server.most_at_once > 1


def test_a_model_that_was_not_trained_for_spans_is_refused(server, far):
    there = far(server, span="auto")
    with pytest.raises(WheelsError, match="was not trained for them; train it by `wheels train --spans 2,4,8"):
        rule_of(artefact_of(there, []), "learned")


def test_a_rule_without_a_gain_in_nats_is_refused(server, far):
    there = far(server, span="auto")
    for rule in ("gate", "margin"):
        with pytest.raises(WheelsError, match=f"weighs gains in nats, and rule '{rule}' has none; use learned, or"):
            rule_of(artefact_of(there, [varied()]), rule)


def test_a_teacher_with_another_tokenizer_is_not_asked_so(pair):
    with pytest.raises(WheelsError, match="span 'auto' is for a teacher behind an address; give tokens:N, sentence"):
        TextPair(pair.student, pair.teacher, pair.tokenizer, pair.tokenizer, span="auto")
