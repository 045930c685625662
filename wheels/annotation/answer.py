"""A model's answer, also as a chat-completions server sends it, and whether it is complete enough for a label."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from wheels.endpoints.faults import Again, RequestRefused, mapping, raise_error_of

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


_ENDED = frozenset({"", "stop", "stop_sequence", "eos", "eos_token", "end", "end_turn", "complete", "completed"})
_CUT = frozenset({"length", "max_tokens", "model_length", "max_output_tokens", "max_length", "abort", "incomplete"})


def answer_of(body: bytes) -> Answer:
    """Return the first choice of a completion, and its flaw if it has one.

    An answer that has arrived whole may have been paid for, so that it is never asked for again, whatever it holds.

    Raises:
        Again: for what is no JSON: a proxy's page, or an answer that was cut short on its way.
        RequestRefused, ServerRefused: for an error in place of a completion, which costs nothing.
    """
    garbled = False
    try:
        try:
            whole: Any = json.loads(body)
        except UnicodeDecodeError:
            whole, garbled = json.loads(body.decode("utf-8", "replace")), True
    except json.JSONDecodeError:
        raise Again("an answer that is no JSON") from None
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"sends an answer that cannot be read ({type(error).__name__})") from None
    choices = mapping(whole).get("choices")
    if not isinstance(choices, list) or not choices:
        if not mapping(mapping(whole).get("usage")).get("total_tokens"):
            raise_error_of(whole)
        return Answer("", EMPTY)  # its tokens were counted, and so paid for
    choice = mapping(choices[0])
    message = mapping(choice.get("message"))
    text = _text(message.get("content")).encode("utf-8", "replace").decode()  # half a surrogate pair has no UTF-8
    flaw = _flaw(choice.get("finish_reason"), message, text) or ("garbled" if garbled else None)
    if flaw and mapping(mapping(whole).get("usage")).get("total_tokens") == 0:
        raise RequestRefused(f"answers with what is no label ({flaw}), and bills nothing for it")
    return Answer(text, flaw)


def _text(content: Any) -> str:
    """Return the text of a message: a string, or the texts among its parts."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping) and part.get("type") in ("text", "output_text")]
        return "".join(str(part.get("text") or "") for part in parts)
    return content if isinstance(content, str) else ""


def _flaw(reason: Any, message: Mapping[str, Any], text: str) -> str | None:
    """Return why a choice is incomplete, by the server's finish reason; None for a complete one."""
    ended = str(reason or "").lower()
    if ended in _CUT:
        return CUT
    if ended == "content_filter":
        return "filtered"
    if message.get("refusal"):
        return "declined"
    if ended not in _ENDED:
        return f"ended: {ended[:40]}"
    return None if text.strip() else EMPTY
