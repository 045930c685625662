"""What a remote teacher is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wheels.endpoints.usage import USED_NOTHING, Usage
from wheels.errors import WheelsError
from wheels.models.loading import Tokenizer


@dataclass(frozen=True)
class Student:
    """Whose teacher it is."""

    tokenizer: Tokenizer
    vocab_size: int
    """Its token ids are below it."""
    is_seq2seq: bool
    """Whether it is an encoder-decoder."""
    end: int
    """The token that ends its outputs."""
    first: int | None
    """The token that they begin with, whatever they say."""


@dataclass(frozen=True)
class TextSoFar:
    """A text that is to go on."""

    source: Sequence[int]
    """Tokens of the source, or of the prompt."""
    written: Sequence[int]
    """Tokens of the output so far."""
    limit: int
    """Tokens of the whole output at most."""
    seed: int = 0
    """The seed of the draws of its next tokens, where tokens are drawn."""
    span: int = 1
    """Tokens that are asked for, as far as there is room for them."""
    asked: str = ""
    """The source itself, for a teacher that is asked in words."""

    @property
    def most(self) -> int:
        """Tokens that may be written now."""
        return min(self.span, self.limit - len(self.written))


@dataclass(frozen=True)
class Span:
    """What the teacher writes after a text."""

    tokens: tuple[int, ...]
    """Its tokens; none where the text ends here and the server does not show the end token."""
    ended: bool
    """Whether the text ends with them."""
    anew: int = 0
    """Tokens before them that they spell anew, and take the place of."""


@dataclass(frozen=True)
class Answer:
    """What one text was answered."""

    span: Span | None = None
    """What the teacher wrote; None: there is no answer."""
    error: WheelsError | None = None
    """Why there is none."""
    usage: Usage = USED_NOTHING
    """Its part of what the request used."""
