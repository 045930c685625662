import numpy as np
import pytest

from wheels.annotation.confidence import ConfidenceThresholds, calibrate_confidence
from wheels.annotation.grades import GRADE_PROMPT, parse_grade
from wheels.data.tasks import check_template
from wheels.errors import WheelsError


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("very confident", 0),
        ("Very Confident.", 0),
        ("**very_confident**", 0),
        ("very-confident", 0),
        ("very\u2011confident", 0),
        ("VERY CONFIDENT!", 0),
        ("Reply: highly confident", 0),
        ("Confident", 1),
        ("I am confident that this is right", 1),
        ("Confident. Very confident indeed.", 1),
        ("very confident. It is not wrong", 0),
        ("The answer is not wrong. Very confident.", 0),
        ("There is nothing wrong with it: very confident", 0),
        ("Very confident, no doubt about it.", 0),
        ("Very confident: there is no mistake.", 0),
        ("Very confident. The sum of 2 and 3 is 5, not 6.", 0),
        ("I'm confident it isn't wrong", 1),
        ("not confident", 2),
        ("Not very confident", 2),
        ("I'm not at all confident", 2),
        ("I\u2019m not confident", 2),
        ("I am not sure, so not confident", 2),
        ("I'm unsure", 2),
        ("I cannot say that I am confident.", 2),
        ("I can't be confident", 2),
        ("I am by no means confident", 2),
        ("I'm far from confident", 2),
        ("less confident", 2),
        ("hardly confident", 2),
        ("over-confident", 2),
        ("un-confident", 2),
        ("Confident? No.", 2),
        ("Very confident. Actually, no.", 2),
        ("Very confident. Wait, let me check.", 2),
        ("Very confident. However, the wording is odd.", 2),
        ("I would be very confident if it were 5", 2),
        ("10% confident", 2),
        ("Very confident that 5 isn't it.", 2),
        ("Very confident. It should be 5.", 2),
        ("Very confident. The correct answer is 5.", 2),
        ("I doubt it", 2),
        ("Very confident that it misses a step.", 2),
        ("wrong answer", 3),
        ("Wrong.", 3),
        ("This is incorrect; I am very confident of it", 3),
        ("I am confident that the proposed answer is wrong.", 3),
        ("I'm very confident this is incorrect.", 3),
        ("Highly confident that it is a wrong answer", 3),
        ("I am confident that this is a mistake", 3),
        ("Very confident that the answer is false", 3),
        ("Confident: the answer is not correct", 3),
        ("I'm confident it isn't the right answer", 3),
        ("I'm very confident.\nThe answer is wrong.", 3),
        ("very confident, confident, not confident, wrong answer", 3),
        ("overconfidently", None),
        ("", None),
        ("42", None),
        ("sehr sicher", None),
    ],
)
def test_the_grade_that_a_reply_gives_to_the_answer(reply, grade):
    assert parse_grade(reply) == grade


@pytest.mark.parametrize("prompt", ["{source}", "{answer}", "{source} {answer} {x}", "{source} {answer} {"])
def test_a_grade_prompt_takes_a_source_and_an_answer(prompt):
    with pytest.raises(WheelsError, match="grade_prompt must contain"):
        check_template("grade_prompt", prompt, "source", "answer")
    assert check_template("grade_prompt", GRADE_PROMPT, "source", "answer") == GRADE_PROMPT


def test_cuts_by_hand():
    right, wrong = list(np.arange(-10.0, 0.1)), [-20.0, -10.0, -8.0]
    cuts = calibrate_confidence(right, wrong, (0.5, 0.1, 0.5))
    assert (cuts.very_confident, cuts.confident, cuts.wrong) == (-5.0, -9.0, -10.0)
    values = (0.0, -5.0, -5.1, -9.0, -9.1, -10.0, -10.1, float("-inf"))
    assert [cuts.grade(value) for value in values] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_nine_right_answers_in_ten_are_let_through_at_a_tenth():
    right = np.random.default_rng(0).normal(size=1000)
    cuts = calibrate_confidence(right, [], (0.5, 0.1, 0.5))
    assert np.mean([cuts.grade(value) <= 1 for value in right]) == pytest.approx(0.9, abs=0.002)
    assert np.mean([cuts.grade(value) == 0 for value in right]) == pytest.approx(0.5, abs=0.002)


def test_wrong_answers_that_look_right_do_not_bring_the_cuts_out_of_order():
    assert calibrate_confidence([-1.0, -2.0], [-0.1], (0.5, 0.0, 0.5)) == ConfidenceThresholds(-1.5, -2.0, -2.0)


@pytest.mark.parametrize("quantiles", [(0.1, 0.5, 0.5), (0.5, 0.1), (1.5, 0.1, 0.5), (0.5, 0.1, -0.1)])
def test_quantiles_out_of_order_are_refused(quantiles):
    with pytest.raises(WheelsError, match="grade_quantiles must be three shares"):
        calibrate_confidence([-1.0], [], quantiles)


def test_no_right_answer_is_no_calibration():
    with pytest.raises(WheelsError, match="labelled validation rows"):
        calibrate_confidence([], [-1.0], (0.5, 0.1, 0.5))


@pytest.mark.parametrize(
    "prompt", ["{source}", "{source} {answer[0]}", "{source:>2000000000} {answer}", "{source} {answer} {"]
)
def test_a_prompt_of_grades_takes_the_source_and_the_answer_as_they_are(prompt):
    with pytest.raises(WheelsError, match=r"grade_prompt must contain \{source\} and \{answer\} and no other braces"):
        check_template("grade_prompt", prompt, "source", "answer")
    assert check_template("grade_prompt", "{source} {answer} {answer}", "source", "answer")
