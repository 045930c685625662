"""A key: read from the environment, checked, and masked in everything that is printed or written."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from wheels.errors import WheelsError

DEFAULT_KEY = "OPENAI_API_KEY"
"""The environment variable that may hold a key, and may be missing; one that the user names must be there."""
MASK = "[key]"
RUN = 8
"""A run of this many characters of a key counts as part of it; a shorter key is masked only as a whole word."""
CUT = 6
"""This many characters at the start of the key count where the text is cut off after them."""
DEPTH = 4
"""How often a text may be escaped: JSON within JSON, an address within JSON ..."""
_SHOWN = re.compile(r"[!-~]+")
_ESCAPE = re.compile(
    r"\\u(?P<u>[0-9a-fA-F]{4})|\\x(?P<x>[0-9a-fA-F]{2})|\\(?P<c>.)|%(?P<p>[0-9a-fA-F]{2})|(?P<e>&#?\w{1,8};)", re.DOTALL
)
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True)
class Secret:
    """A key, or none (the empty text); it shows itself to nobody."""

    value: str = field(default="", repr=False)
    """What is sent to the server."""

    def mask(self, text: str) -> str:
        """Return a text with `[key]` in place of the key or any part of it.

        Found are the key itself in any case of its letters; the key escaped as in JSON, a `repr`, an address or HTML,
        up to `DEPTH` times over; any `RUN` of its characters; its beginning where the text is cut off after it.
        """
        spans = sorted(self._spans(text))
        parts: list[str] = []
        done = 0
        for start, end in spans:
            if start > done or not parts:
                parts += [text[done:start], MASK]
            done = max(done, end)
        return "".join([*parts, text[done:]])

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the spans of the key's parts in a text, at every depth of escaping."""
        level = text
        starts: Sequence[int] = range(len(text))
        ends: Sequence[int] = range(1, len(text) + 1)
        for _ in range(DEPTH + 1 if self.value else 0):
            for first, last in _find(self.value.translate(_LOWER), level.translate(_LOWER)):
                yield starts[first], ends[last - 1]
            plain, starts, ends = _unescape(level, starts, ends)
            if plain == level:
                return
            level = plain


def _find(key: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of a key, of a run of its characters, or of its cut-off beginning."""
    if len(key) < RUN:
        yield from (match.span() for match in re.finditer(rf"(?<![a-z0-9]){re.escape(key)}(?![a-z0-9])", text))
        return
    for run in {key[start : start + RUN] for start in range(len(key) - RUN + 1)}:
        place = text.find(run)
        while place >= 0:
            yield place, place + RUN
            place = text.find(run, place + 1)
    for length in range(CUT, RUN):
        cut = rf"{re.escape(key[:length])}(?=[\"'\\\])}}]*\s*$|\.\.|\u2026|\*)"
        yield from (match.span() for match in re.finditer(cut, text))


def _unescape(text: str, starts: Sequence[int], ends: Sequence[int]) -> tuple[str, Sequence[int], Sequence[int]]:
    """Return a text with one layer of escapes removed, and the offset of each character in the original."""
    letters: list[str] = []
    first: list[int] = []
    last: list[int] = []
    done = 0
    for match in _ESCAPE.finditer(text):
        letters += text[done : match.start()]
        first += starts[done : match.start()]
        last += ends[done : match.start()]
        for letter in _meant(match):
            letters.append(letter)
            first.append(starts[match.start()])
            last.append(ends[match.end() - 1])
        done = match.end()
    if not done:
        return text, starts, ends
    return "".join([*letters, text[done:]]), [*first, *starts[done:]], [*last, *ends[done:]]


def _meant(match: re.Match[str]) -> str:
    """Return the character that an escape encodes."""
    if match["e"]:
        return html.unescape(match["e"])
    if match["c"]:
        return match["c"]
    return chr(int(match["u"] or match["x"] or match["p"], 16))


def read_secret(variable: str, option: str) -> Secret:
    """Return the key that an environment variable holds; without `DEFAULT_KEY` there is none.

    Args:
        variable: its name.
        option: the option that named it, for errors.

    Raises:
        WheelsError: for a variable that is not set (its name is not shown, for it may be the key itself), and for a key
            that no header can carry.
    """
    value = os.environ.get(variable, "")
    if not value and variable != DEFAULT_KEY:
        raise WheelsError(
            f"{option} must name an environment variable that holds the key; what was given ({len(variable)} "
            "characters, not shown: it may be the key itself) names none that is set; `export NAME=...`, and give NAME"
        )
    return Secret(check_key(value, variable) if value else "")


def check_key(value: str, place: str) -> str:
    """Return a key, read from a variable or a file, that a header can carry.

    Raises:
        WheelsError: for any other; the key is not shown.
    """
    if not value:
        raise WheelsError(f"the key in {place} is empty; put one there")
    if not _SHOWN.fullmatch(value):
        bad = next(letter for letter in value if not _SHOWN.fullmatch(letter))
        what = {"\n": "a line end", "\r": "a line end", " ": "a space"}.get(bad)
        what = what or ("a control character" if bad < "\x80" else "a character outside ASCII")
        raise WheelsError(f"the key in {place} holds {what}, which no header can carry; store it without")
    return value
