"""Four grades of confidence in an answer, and the words that a prompted model says for them.

The prompt of Zhou & Ai 2024 (2406.05322) could not be read; this one is ours, and a parameter.
"""

from __future__ import annotations

import re

from wheels.data import check_template

GRADES = ("very confident", "confident", "not confident", "wrong answer")
"""From best to worst; a grade is its place here, 0 to 3."""
ACCEPTED = (0, 1)
"""The grades that let an annotation into the training set."""
UNREADABLE = 2
"""The grade of a reply that names none: not confident."""
GRADE_PROMPT = (
    "A question and a proposed answer follow.\n"
    "Question: {source}\n"
    "Proposed answer: {answer}\n"
    "How confident are you that the proposed answer is right? "
    "Reply with one of: very confident, confident, not confident, wrong answer.\n"
    "Reply:"
)
# The first of these words in a reply decides, and of those that start at one place the one that stands first here.
_WORDS = (
    (
        re.compile(
            r"\b(?:not|n't|isn't|less|hardly)\s+(?:\w+\s+){0,2}confident|\bunconfident\b|\bunsure\b|\buncertain\b"
        ),
        2,
    ),
    (re.compile(r"\bvery\s+confident\b|\bhighly\s+confident\b"), 0),
    (re.compile(r"\bconfident\b"), 1),
    (re.compile(r"\bwrong\b|\bincorrect\b"), 3),
)


def parse_grade(reply: str) -> int | None:
    """Return the grade that a reply names first, or None where it names none."""
    text = reply.casefold().replace("\u2019", "'").replace("_", " ").replace("-", " ")
    found = [
        (match.start(), place, grade) for place, (words, grade) in enumerate(_WORDS) if (match := words.search(text))
    ]
    return min(found)[2] if found else None


def check_grade_prompt(prompt: str) -> str:
    """Return `prompt` if a source and an answer can be put into it.

    Raises:
        WheelsError: where it lacks one of them, or has other braces.
    """
    return check_template("grade_prompt", prompt, "source", "answer")
