"""Tokens to text while they come: no character is shown before it is whole, and no stop text at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer shows for bytes that are no whole character yet."""


class Speller:
    """Spells one text, piece by piece; the pieces together are the text of all its tokens.

    What a token adds depends on those before it (spaces, bytes of one character), but not on those long before: from
    `start` on two texts are spelt, with and without the new tokens, and what the second has more is the piece.

    Args:
        decode: Tokens to text, special tokens skipped, spaces kept.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.tokens: list[int] = []
        self.start = self.shown = 0

    def add(self, tokens: Sequence[int]) -> str:
        """Return what further tokens add; a character that is not whole yet comes with a later one."""
        self.tokens += tokens
        piece = self._piece()
        if not piece or piece.endswith(UNFINISHED):
            return ""
        self.start, self.shown = self.shown, len(self.tokens)
        return piece

    def end(self) -> str:
        """Return what is left at the end: bytes that never became a character."""
        piece, self.start, self.shown = self._piece(), len(self.tokens), len(self.tokens)
        return piece

    def _piece(self) -> str:
        before = self.decode(self.tokens[self.start : self.shown])
        return self.decode(self.tokens[self.start :])[len(before) :]


class StopTexts:
    """Ends a text before the first of some stop texts, which may come in several pieces.

    Args:
        stops: None is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held = tuple(stops), ""
        self.reason: str | None = None
        """The stop text that ended it."""

    @property
    def found(self) -> bool:
        """Whether the text has ended."""
        return self.reason is not None

    def add(self, piece: str) -> str:
        """Return what may be shown of a piece and of what was held back; sets `reason` where the text ends."""
        text = self.held + piece
        places = [(place + len(stop), place, stop) for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:  # the one that is whole first, so that it does not matter how the text is cut
            _, first, self.reason = min(places)
            self.held = ""
            return text[:first]
        keep = max((self._overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """Return what is still held back, where no stop text came."""
        held, self.held = self.held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return how long an end of a text is a beginning of a stop text."""
        longest = min(len(stop) - 1, len(text))
        return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)


class OuterSpaces:
    """Leaves out the spaces around a text, as `wheels generate` does; a space is held back until more comes."""

    def __init__(self) -> None:
        self.begun, self.held = False, ""

    def add(self, piece: str) -> str:
        """Return what may be shown of a piece and of what was held back."""
        text = self.held + piece if self.begun else piece.lstrip()
        self.begun |= bool(text)
        shown = text.rstrip()
        self.held = text[len(shown) :]
        return shown
