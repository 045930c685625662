"""The answer at the end of a worked solution, found and compared: exact match after extraction."""

from __future__ import annotations

import re
from fractions import Fraction

MARK = "####"
"""What stands before the answer in GSM8K (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168)."""
SIGNATURE = f"answer:{MARK},boxed,last-number|numbers:by-value|thousands:comma"

_UNSIGNED = r"(?:\d{1,3}(?:[,\u00a0\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
# A minus after a letter, a number or a bracket is a hyphen, or subtracts.
_NUMBER = re.compile(rf"(?:(?<![\w)])[-+\u2212])?(?:{_UNSIGNED})(?:\s*/\s*(?:{_UNSIGNED}))?")
# A unit is a sign, or a word that stands apart: `2x` and `2y` are no numbers.
_WITH_UNIT = re.compile(
    rf"(?:[^\W\d]\w*\s*=)?\s*({_NUMBER.pattern})\s*(?:[%\u00b0]\w?|(?<=\s)[^\W\d_]{{2,}}[^\d=]*)?\.?\s*"
)
_FRACTION = re.compile(rf"\\[dt]?frac\{{\s*({_UNSIGNED})\s*\}}\{{\s*({_UNSIGNED})\s*\}}")
_WORDS = re.compile(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}")
_DEGREE = re.compile(r"\^\{?\\circ\}?")
_NO_MEANING = re.compile(r"\\[$!,;]|\\left|\\right|\\%?(?=%)|[$€£¥]")


def answer_of(text: str) -> str:
    r"""Return the answer of a solution: after the last `####`, else in the last `\boxed{}`, else the last number.

    A text with none of them is its own answer.
    """
    if MARK in text:
        lines = text.rpartition(MARK)[2].strip().splitlines()
        return lines[0].strip() if lines else ""
    if (boxed := _boxed(text)) is not None:
        return boxed
    numbers = _NUMBER.findall(_plain(text))
    return numbers[-1] if numbers else text.strip()


def same_answer(one: str, other: str) -> bool:
    """Return whether two solutions have the same answer: the same value, or the same text where one is no number.

    Currencies, percent signs, units that stand apart and commas between thousands do not count: `$1,234.50` is `1234.5
    dollars`. A text without an answer has the same as no other.
    """
    first, second = _plain(answer_of(one)), _plain(answer_of(other))
    values = _value(first), _value(second)
    if None not in values:
        return values[0] == values[1]
    return bool(first) and _squeezed(first) == _squeezed(second)


def _boxed(text: str) -> str | None:
    r"""Return what stands in the last `\boxed{}`, with the braces inside; None where there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place].strip()
    return text[begin:].strip()


def _plain(text: str) -> str:
    """Return a text without the marks of LaTeX and the currencies that say nothing of a value."""
    text = _WORDS.sub(r" \1", _FRACTION.sub(r"\1/\2", text.replace("{,}", ",")))
    return _NO_MEANING.sub("", _DEGREE.sub("\u00b0", text))


def _value(answer: str) -> Fraction | None:
    """Return the number that an answer is; None where it is none."""
    found = _WITH_UNIT.fullmatch(answer)
    try:
        parts = (
            [Fraction(re.sub("[,\u00a0\u202f]", "", part)) for part in _signed(found[1]).split("/")] if found else []
        )
        return parts[0] / parts[1] if len(parts) == 2 else parts[0]
    except (ValueError, ZeroDivisionError, IndexError):
        return None


def _signed(number: str) -> str:
    return number.replace("\u2212", "-").replace(" ", "")


def _squeezed(answer: str) -> str:
    return "".join(answer.split()).rstrip(".").casefold()
