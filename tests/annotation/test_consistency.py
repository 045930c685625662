import pytest

from wheels.annotation.selection import agreement, consistency
from wheels.errors import WheelsError
from wheels.metrics import sentence_scores


@pytest.mark.parametrize(
    ("samples", "metric", "answer", "share"),
    [
        (["a", "b", "A ", "a", "c"], "exact", "a", 0.6),
        (["a", "b"], "exact", "a", 0.5),
        (["x"] * 4, "exact", "x", 1.0),
        (["", ""], "exact", "", 1.0),
        (["( 3.0 + 4.0 )", "7", "8", "(4+3)"], "equation", "( 3.0 + 4.0 )", 0.75),
        (["1 / 0", "1 / 0", "nonsense"], "equation", "1 / 0", 0.0),
        (["1 / 0", "1 / 0", "5"], "equation", "5", 1 / 3),
        (["0.1 + 0.2", "0.3"], "equation", "0.1 + 0.2", 1.0),
    ],
)
def test_right_or_wrong_is_the_share_of_the_modal_answer(samples, metric, answer, share):
    found = consistency(samples, metric)
    assert found.answer == answer
    assert found.consistency == pytest.approx(share)


@pytest.mark.parametrize("metric", ["chrf", "rougeL"])
def test_free_text_is_the_mean_agreement_of_two_different_samples(metric):
    samples = ["a man runs in the park", "a man runs in a park", "two dogs sleep"]
    score = lambda i, j: sentence_scores(metric, [samples[i]], [samples[j]])[0] / 100  # noqa: E731
    by_hand = sum(score(i, j) for i in range(3) for j in range(3) if i != j) / 6
    found = consistency(samples, metric)
    assert found.consistency == pytest.approx(by_hand)
    assert found.consistency < 0.6, "what a sample has in common with itself does not count"
    assert found.answer in samples[:2]


def test_free_text_that_is_the_same_agrees_wholly():
    assert consistency(["ein Satz"] * 3, "chrf").consistency == pytest.approx(1.0)


def test_agreement_has_no_sides():
    agree = agreement(["a long sentence about dogs", "dogs"], "chrf")
    assert agree[0, 1] == agree[1, 0]
    assert agree[0, 0] == 1.0


def test_one_sample_cannot_disagree():
    with pytest.raises(WheelsError, match="at least 2 samples, got 1"):
        consistency(["x"], "exact")
