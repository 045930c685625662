"""From token scores to word scores, and to the top words of a rationale.

A word is a run of characters between white space, without the punctuation (Unicode categories P) at its two ends; a run
of nothing but punctuation is no word. So `friends?` is `friends`, `(a)` is `a`, `don't` and `1,234.56` are one word
each, and in a script without spaces a whole run is one word. Which tokens make a word follows from their places in the
text, as a fast tokenizer gives them: byte-level pieces with their spaces, metaspaces and word pieces are alike here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from wheels.data.prompts import Prompt
from wheels.errors import WheelsError
from wheels.models.encoding import written_prompt
from wheels.models.loading import Tokenizer

Span = tuple[int, int]
"""First character, and the one after the last."""


@dataclass(frozen=True)
class Word:
    """One word of a text."""

    text: str
    start: int
    """Its first character in the text."""
    end: int
    """The character after its last one."""


def words_of(text: str) -> list[Word]:
    """Return the words of a text, in order."""
    found, place = [], 0
    for run in text.split():
        start = text.index(run, place)
        place = start + len(run)
        inner = [index for index, character in enumerate(run) if not _is_punctuation(character)]
        if inner:
            first, last = start + inner[0], start + inner[-1] + 1
            found.append(Word(text[first:last], first, last))
    return found


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def token_spans(tokenizer: Tokenizer, prompt: Prompt, source: str) -> list[Span | None]:
    """Return the span of the source that each token covers; None for a token that is not part of it.

    Args:
        tokenizer: a fast one, which knows the places of its tokens.
        prompt: what the model reads.
        source: the text.

    Returns:
        A span for each token of `wheels.models.encoding.encode_sources`, of the source's own characters, without white
        space; and one None more for an end token that a causal model does not read.

    Raises:
        WheelsError: where the tokenizer does not know the places.
    """
    if not tokenizer.is_fast:
        raise WheelsError(
            f"the tokenizer {type(tokenizer).__name__} does not give the offsets of its tokens, so no words "
            "can be found; use a fast tokenizer (`tokenizer.json`)"
        )
    # A brace that is doubled in the prompt is one in the text, so the place is looked for in the filled prompt.
    mark, text = (written_prompt(tokenizer, prompt, part) for part in ("\0", source))
    before = mark.index("\0")
    offsets: Sequence[Span] = tokenizer(text, add_special_tokens=not prompt.chat, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    return [_within(source, start - before, end - before) for start, end in offsets]


def _within(source: str, start: int, end: int) -> Span | None:
    """Clip a span to the source and strip white space; None where nothing is left."""
    start, end = max(start, 0), min(end, len(source))
    while start < end and source[start].isspace():
        start += 1
    while start < end and source[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def word_scores(
    words: Sequence[Word], spans: Sequence[Span | None], scores: Sequence[float], *, merge: str = "max"
) -> list[float]:
    """Return the score of each word from the tokens that overlap it.

    Args:
        words: in the order of the text.
        spans: of the tokens; None for one that is no part of the text.
        scores: of the tokens, of either sign.
        merge: `max`: the score of largest size, with its sign; `sum`: the sum, which keeps completeness, and favours
            words of many pieces. A token that reaches into two words counts for both; a word without a token has 0.
    """
    merged = []
    for word in words:
        parts = [
            score
            for span, score in zip(spans, scores, strict=True)
            if span is not None and span[0] < word.end and span[1] > word.start
        ]
        merged.append(float(sum(parts) if merge == "sum" else max(parts, key=abs, default=0.0)))
    return merged


def top_words(scores: Sequence[float], k: int) -> list[int]:
    """Return the indices of the k scores of largest magnitude, in text order; ties go to the earlier."""
    ranked = sorted(range(len(scores)), key=lambda place: (-abs(scores[place]), place))
    return sorted(ranked[:k])


def rationale(words: Sequence[str], scores: Sequence[float], k: int) -> str:
    """Return the k most important words in text order, joined by spaces."""
    return " ".join(words[place] for place in top_words(scores, k))
