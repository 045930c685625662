"""The length of drafts: closed forms against sums, and the best length against all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheels.decoding.methods.draft_length import best_length, estimated_acceptance, expected_tokens, line, next_length
from wheels.decoding.methods.method import prompt_lookup, speculative
from wheels.decoding.sequences import Sequence

RATES = st.integers(0, 20).map(lambda step: step / 20)


@given(acceptance=RATES, draft=st.integers(0, 16))
def test_expected_tokens_are_the_sum_over_where_a_draft_is_cut(acceptance, draft):
    """Cut behind k tokens with `a^k (1 - a)`, whole with `a^K`; the teacher's token follows either."""
    total = sum((kept + 1) * acceptance**kept * (1 - acceptance) for kept in range(draft))
    assert expected_tokens(acceptance, draft) == pytest.approx(total + (draft + 1) * acceptance**draft)


@pytest.mark.parametrize(
    ("acceptance", "draft", "tokens"), [(0.0, 7, 1.0), (1.0, 7, 8.0), (0.5, 0, 1.0), (0.5, 1, 1.5), (0.5, 2, 1.75)]
)
def test_expected_tokens_by_hand(acceptance, draft, tokens):
    assert expected_tokens(acceptance, draft) == tokens


@given(
    acceptance=RATES,
    student=st.sampled_from([0.0, 0.01, 0.1, 0.5, 2.0]),
    each=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    longest=st.integers(1, 16),
)
def test_no_length_writes_more_tokens_a_second(acceptance, student, each, longest):
    teacher = tuple(1.0 + each * width for width in range(longest + 1))
    rates = {
        draft: sum(acceptance**place for place in range(draft + 1)) / (draft * student + teacher[draft])
        for draft in range(longest + 1)
    }
    best = best_length(acceptance, student, teacher)
    assert best >= 1 and rates[best] == pytest.approx(max(rates[draft] for draft in range(1, longest + 1)))
    assert all(rates[draft] < rates[best] + 1e-12 for draft in range(1, best))


@pytest.mark.parametrize(
    ("acceptance", "student", "teacher", "length"),
    [
        (0.0, 0.1, (1.0,) * 17, 1), (1.0, 0.1, (1.0,) * 17, 16), (1.0, 2.0, (1.0,) * 17, 1), (0.9, 0.0, (1.0,) * 5, 4),
        (0.5, 0.25, (1.0, 1.0, 1.0, 1.0), 1),  # 1, 1.5 / 1.25, 1.75 / 1.5, 1.875 / 1.75
        (1.0, 0.0, (1.0, 2.0, 3.0), 1),  # all equal: the smallest
    ],
)  # fmt: skip
def test_the_best_length_by_hand(acceptance, student, teacher, length):
    assert best_length(acceptance, student, teacher) == length


def test_an_acceptance_starts_at_its_prior_and_is_soon_overruled():
    assert estimated_acceptance(0, 0) == 0.6
    assert estimated_acceptance(7, 15) == 0.5
    assert estimated_acceptance(0, 1000) < 0.01 and estimated_acceptance(1000, 1000) > 0.99


def test_a_row_drafts_by_its_own_acceptance_in_steps_of_a_twentieth():
    """Of 15 that were checked 13 stand: with the prior, 16 of 20."""
    costs = student, teacher = 0.1, (1.0,) * 17
    method, sequence = speculative(5, adaptive=True), Sequence(0, [5], 20, accepted=13, checked=15)
    assert next_length(method, sequence, costs) == best_length(0.8, student, teacher) == 6
    assert best_length(0.85, student, teacher) == 7, "the next step has another length"
    sequence.accepted = 13.4
    assert next_length(method, sequence, costs) == 6, "0.82 is nearest to 0.8"
    assert next_length(prompt_lookup(5, adaptive=True), sequence, costs) == 16, "a copied draft costs nothing"
    assert next_length(method, sequence, None) == 5, "nothing was measured"
    sequence.checked = 0
    assert next_length(method, sequence, costs) == 5, "what the method says, before anything is known"


def test_a_line_through_the_ends():
    assert line([(1, 1.0), (5, 3.0)], 4) == (1.0, 1.5, 2.0, 2.5)
    assert line([(1, 1.0), (3, 50.0), (5, 3.0)], 2) == (1.0, 1.5), "the first and the last point alone"
    assert line([(1, 2.0)], 3) == (2.0, 2.0, 2.0)
    assert line([(1, 2.0), (5, 0.0)], 9)[-1] == 1e-9, "no pass is free"
