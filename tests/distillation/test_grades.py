import numpy as np
import pytest

from wheels.distillation.cuts import Cuts, calibrate_cuts
from wheels.distillation.grades import GRADE_PROMPT, check_grade_prompt, parse_grade
from wheels.errors import WheelsError


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("very confident", 0),
        ("Very Confident.", 0),
        ("**very_confident**", 0),
        ("very-confident", 0),
        ("Confident", 1),
        ("I am confident that this is right", 1),
        ("not confident", 2),
        ("Not very confident", 2),
        ("I'm not at all confident", 2),
        ("I'm unsure", 2),
        ("wrong answer", 3),
        ("Wrong.", 3),
        ("This is incorrect; I am very confident of it", 3),
        ("very confident. It is not wrong", 0),
        ("overconfidently", None),
        ("", None),
        ("42", None),
    ],
)
def test_the_grade_that_a_reply_names_first(reply, grade):
    assert parse_grade(reply) == grade


@pytest.mark.parametrize("prompt", ["{source}", "{answer}", "{source} {answer} {x}", "{source} {answer} {"])
def test_a_grade_prompt_takes_a_source_and_an_answer(prompt):
    with pytest.raises(WheelsError, match="grade_prompt must contain"):
        check_grade_prompt(prompt)
    assert check_grade_prompt(GRADE_PROMPT) == GRADE_PROMPT


def test_cuts_by_hand():
    right, wrong = list(np.arange(-10.0, 0.1)), [-20.0, -10.0, -8.0]
    cuts = calibrate_cuts(right, wrong, (0.5, 0.1, 0.5))
    assert (cuts.very_confident, cuts.confident, cuts.wrong) == (-5.0, -9.0, -10.0)
    values = (0.0, -5.0, -5.1, -9.0, -9.1, -10.0, -10.1, float("-inf"))
    assert [cuts.grade(value) for value in values] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_nine_right_answers_in_ten_are_let_through_at_a_tenth():
    right = np.random.default_rng(0).normal(size=1000)
    cuts = calibrate_cuts(right, [], (0.5, 0.1, 0.5))
    assert np.mean([cuts.grade(value) <= 1 for value in right]) == pytest.approx(0.9, abs=0.002)
    assert np.mean([cuts.grade(value) == 0 for value in right]) == pytest.approx(0.5, abs=0.002)


def test_wrong_answers_that_look_right_do_not_bring_the_cuts_out_of_order():
    assert calibrate_cuts([-1.0, -2.0], [-0.1], (0.5, 0.0, 0.5)) == Cuts(-1.5, -2.0, -2.0)


@pytest.mark.parametrize("quantiles", [(0.1, 0.5, 0.5), (0.5, 0.1), (1.5, 0.1, 0.5), (0.5, 0.1, -0.1)])
def test_quantiles_out_of_order_are_refused(quantiles):
    with pytest.raises(WheelsError, match="grade_quantiles must be three shares"):
        calibrate_cuts([-1.0], [], quantiles)


def test_no_right_answer_is_no_calibration():
    with pytest.raises(WheelsError, match="labelled validation rows"):
        calibrate_cuts([], [-1.0], (0.5, 0.1, 0.5))


@pytest.mark.parametrize(
    "prompt", ["{source}", "{source} {answer[0]}", "{source:>2000000000} {answer}", "{source} {answer} {"]
)
def test_a_prompt_of_grades_takes_the_source_and_the_answer_as_they_are(prompt):
    with pytest.raises(WheelsError, match=r"grade_prompt must contain \{source\} and \{answer\} and no other braces"):
        check_grade_prompt(prompt)
    assert check_grade_prompt("{source} {answer} {answer}")
