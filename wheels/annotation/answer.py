"""A model's answer, and whether it is complete: only complete answers become labels."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

CUT = "cut"
"""It reached the longest answer, and stops in the middle."""
THINKING = "thinking"
"""It was still thinking when it stopped."""
EMPTY = "empty"
"""There is no text."""
REFUSED = "refused"
"""The server refused; its message follows."""

_TAG = re.compile(
    r"<(?P<end>/?)(?:\w+:)?(?:think|thinking|thought|reasoning)>|\[(?P<end2>/?)think\]|\u25c1(?P<end3>/?)think\u25b7"
    r"|<\|channel\|>(?:(?P<end4>final)|analysis|commentary)<\|message\|>",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    """One answer of a model."""

    text: str
    flaw: str | None = None
    """Why it is no label, one word first (`cut`, `empty`, `refused: code 400 ...`); None: it may be one."""
    thought: bool = False
    """Whether it is a label that a thinking part was taken out of."""


def without_thinking(answer: Answer) -> Answer:
    """Return an answer without its thinking parts, and without blanks around it.

    A part begins with `<think>` (or a kin of it) and ends with `</think>`; some servers leave out the first. One that
    has no end was cut: the answer was not begun, or is in doubt.
    """
    kept, thinking, thought, done = "", False, False, 0
    for tag in _TAG.finditer(answer.text):
        ends = any(tag[name] for name in ("end", "end2", "end3", "end4"))
        if not thinking:
            kept = "" if ends else kept + answer.text[done : tag.start()]
        thinking, thought, done = not ends, True, tag.end()
    kept = (kept if thinking else kept + answer.text[done:]).strip()
    flaw = answer.flaw or (THINKING if thinking else None) or (None if kept else EMPTY)
    return replace(answer, text=kept, flaw=flaw, thought=thought and flaw is None)
