"""Four grades of confidence in an answer, and how they are read from a prompted model's reply.

The prompt of Zhou & Ai 2024 (2406.05322) could not be read; this one is ours, and a parameter.
"""

from __future__ import annotations

import re
import unicodedata

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
_WRONG = (
    r"(?:wrong|wrongly|incorrect|incorrectly|false|mistaken|mistakes?|errors?|erroneous|inaccurate|invalid|flawed|untrue"
    r"|nonsense|fails?|bad)"
)
_RIGHT = r"(?:right|correct|correctly|true|accurate|valid)"
_NO = (
    r"(?:not|no|never|none|neither|nor|nothing|cannot|without|isn'?t|wasn'?t|aren'?t|can'?t|don'?t|doesn'?t|won'?t"
    r"|couldn'?t|wouldn'?t|n't)"
)
# What says that nothing is wrong is taken out first, so that its words are not read as a doubt.
_FINE = re.compile(
    rf"\b{_NO}\s+(?:\w+\s+){{0,2}}?{_WRONG}\b(?:\s+answer)?|\bnothing\s+(?:is\s+|seems\s+)?{_WRONG}(?:\s+with\b)?"
    rf"|\b(?:no|without(?:\s+a)?)\s+(?:\w+\s+)?doubts?\b|\bfree\s+of\s+{_WRONG}\b"
)
_SAYS_WRONG = re.compile(rf"\b{_WRONG}\b|\b{_NO}\s+(?:(?:\w+\s+){{0,2}}?){_RIGHT}\b")
_DOUBTS = re.compile(
    r"\b(?:unconfident|overconfident|uncertain|unsure|doubts?|doubtful|diffident|contradicts?|disagree"
    r"|misses|missing|omits|incomplete|inconsistent|implausible|impossible|unlikely|unreliable|off|opposite)\b"
    r"|\b(?:actually|however|but|although|though|except|unless|wait|should (?:have been|be)|ought to be)\b"
    r"|\b(?:right|correct|actual|real|true) answer (?:is|was|would be)\b|^\W*no\b"
)
_HEDGES = re.compile(
    rf"\b{_NO}\b|n't\b|\?|%|\b(?:less|hardly|barely|scarcely|little|low|lower|far|un|non|over|too|only|somewhat|slightly"
    r"|partly|partially|half|if|would|could|might|may|were|more|lack|lacks|lacking|percent)\b"
)
_VERY = re.compile(r"\b(?:very|highly|extremely|absolutely|completely|fully|totally|entirely|quite)\s+confident\b")
_CONFIDENT = re.compile(r"\bconfident\b")


def parse_grade(reply: str) -> int | None:
    """Return the grade in a reply, or None without one.

    Sentence by sentence, the worst one decides: what calls the answer wrong (3), however confidently; then any doubt,
    a confidence that is denied or hedged, and a change of mind (2); then confidence (1, or 0 where it is a strong one).
    So a reply that can be read in two ways is not accepted.
    """
    text = unicodedata.normalize("NFKC", reply).casefold()
    text = re.sub(r"[\u2018\u2019\u02bc\u00b4`]", "'", text)
    text = re.sub(r"[_*#\"\u2010-\u2015-]", " ", text)
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    grades = [_grade_of_sentence(sentence) for sentence in re.findall(r"[^.!?;\n]+[.!?;\n]*", text)]
    return max((grade for grade in grades if grade is not None), default=None)


def _grade_of_sentence(sentence: str) -> int | None:
    """Return the grade in one sentence."""
    sentence = _FINE.sub(" fine ", sentence)
    if _SAYS_WRONG.search(sentence):
        return 3
    if _DOUBTS.search(sentence):
        return 2
    if not _CONFIDENT.search(sentence):
        return None
    if _HEDGES.search(sentence):
        return 2
    return 0 if _VERY.search(sentence) else 1
