"""A prompt that is told again before what was written after it: OpenAI's `echo`."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.decoding.sequences import TokenLogprobs
from wheels.decoding.serve.jobs import Piece
from wheels.decoding.serve.spelling import Speller
from wheels.endpoints.scoring import TokenScores
from wheels.models.pair import Pair


@dataclass(frozen=True)
class Echo:
    """A prompt."""

    text: str
    pieces: tuple[Piece, ...]
    """Its tokens; the first has no log-probability, for nothing predicts it."""


def echo_of(pair: Pair, prompt: list[int], scores: TokenScores | None) -> Echo:
    """Return a prompt of P tokens, with the scores of those after the first."""
    speller = Speller(pair.spell)
    known: list[TokenLogprobs | None] = [None] * len(prompt)
    if scores is not None:
        places = zip(scores.log_p_token_T.tolist(), scores.ids_TK.tolist(), scores.log_p_TK.tolist(), strict=True)
        known[1:] = [TokenLogprobs(own, (*zip(ids, values, strict=True),)) for own, ids, values in places]
    pieces = [Piece(token, speller.add([token]), False, each) for token, each in zip(prompt, known, strict=True)]
    return Echo("".join(piece.text for piece in pieces) + speller.end(), (*pieces,))
