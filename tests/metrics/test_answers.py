"""Answers of worked solutions: what is found, and what is the same."""

from __future__ import annotations

import pytest

from wheels.metrics import answer_of, same_answer, score, sentence_scores, signature


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("48/2 = <<48/2=24>>24 clips.\n#### 72", "72"),
        ("#### 1\n#### 2\nand 3", "2"),
        ("a ####", ""),
        ("so \\boxed{\\frac{1}{2}} of 7", "\\frac{1}{2}"),
        ("\\boxed{1} and \\boxed{2}", "2"),
        ("\\boxed{2", "2"),
        ("#### 5 \\boxed{6}", "5 \\boxed{6}"),
        ("The answer is $1,234.50.", "1,234.50"),
        ("it takes 3 hours, or 180 minutes", "180"),
        ("it is -3", "-3"),
        ("5-3", "3"),
        ("x2", "2"),
        (" none ", "none"),
        ("", ""),
    ],
)
def test_the_answer_is_found(text: str, answer: str) -> None:
    assert answer_of(text) == answer


SAME = [
    ("#### 1,234", "1234"),
    ("#### 42", "The answer is 42."),
    ("#### 42", "\\boxed{42.0}"),
    ("#### 42 apples", "42"),
    ("#### $18", "so 18 dollars"),
    ("#### $18.50", "\\boxed{\\$18.5}"),
    ("#### 50%", "\\boxed{50\\%}"),
    ("#### -5", "\\boxed{\u22125}"),
    ("#### 0.5", "\\boxed{\\frac{1}{2}}"),
    ("#### 1/2", "\\boxed{\\dfrac{2}{4}}"),
    ("#### 1,000,000", "\\boxed{1{,}000{,}000}"),
    ("#### 1\u202f000", "#### 1000"),
    ("#### 5", "\\boxed{x = 5}"),
    ("#### 12", "\\boxed{12\\text{ cm}}"),
    ("#### 90", "\\boxed{90^\\circ}"),
    ("#### .5", "0.50"),
    ("#### 007", "7"),
    ("\\boxed{\\text{Yes}}", "#### yes."),
    ("\\boxed{x^2 + 1}", "\\boxed{x^2+1}"),
    ("9" * 5000, "9" * 5000),
]
DIFFERENT = [
    ("#### 42", "43"),
    ("#### 42", "4.2"),
    ("#### 42", "-42"),
    ("#### 1234", "1,23,4"),
    ("\\boxed{2x}", "\\boxed{2y}"),
    ("\\boxed{2x}", "2"),
    ("\\boxed{2ab}", "\\boxed{2ac}"),
    ("#### 1/0", "#### 2/0"),
    ("#### 10:30", "#### 10:31"),
    ("", ""),
    ("####", "####"),
    ("#### 5", "five"),
    ("9" * 5000, "9" * 4999 + "8"),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=str)
def test_answers_of_one_value_are_the_same(one: str, other: str) -> None:
    assert same_answer(one, other) and same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=str)
def test_answers_of_other_values_are_not(one: str, other: str) -> None:
    assert not same_answer(one, other) and not same_answer(other, one)


def test_the_metric() -> None:
    hypotheses = ["so 1,000 + 1 = 1,001.", "#### 3", "no idea"]
    references = ["1000 + 1 = <<1000+1=1001>>1001\n#### 1001", "#### 4", "#### 5"]
    assert sentence_scores("answer", hypotheses, references) == [100.0, 0.0, 0.0]
    found = score("answer", hypotheses, references)
    assert found.value == pytest.approx(100 / 3)
    assert (
        found.signature == signature("answer", []) == "answer:####,boxed,last-number|numbers:by-value|thousands:comma"
    )
    assert sentence_scores("exact", hypotheses, references) == [0.0] * 3  # negative control
