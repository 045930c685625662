"""The rationale page: the words of each source shaded by weight, the rationale's words marked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from wheels.output.page import facts, page
from wheels.output.visible import html
from wheels.rationales.words import top_words, words_of

STRONGEST = 0.6
"""Opacity of the heaviest word's shade: ink on it stays legible on white and on black paper."""

Shown = tuple[str, str, Sequence[tuple[str, float]], int]
"""Source, target, the words of the source with their scores, and how many of them make the rationale."""


def rationales_page(rows: Iterable[Shown], about: Mapping[str, str]) -> str:
    """Return a self-contained page without scripts: whatever the texts hold is only shown.

    Args:
        rows: what is shown; the shade of a word is its size relative to the heaviest word of its own source.
        about: names and values at the top.
    """
    key = f"{shaded('for', 1.0)} the target, {shaded('against', -1.0)} it; <b>underlined</b>: in the rationale"
    values = {name: html(value) for name, value in about.items()} | {"shade": key}
    return page("What the teacher looked at", [facts(values), *(section(*row) for row in rows)])


def section(source: str, target: str, scored: Sequence[tuple[str, float]], k: int) -> str:
    """Return one source with its words shaded, and its target."""
    words, scores = words_of(source), [score for _, score in scored]
    heaviest = max(map(abs, scores), default=0.0) or 1.0
    # A source that the teacher could not read has words and no scores.
    chosen = set(top_words(scores, k))
    parts, place = [], 0
    for number, (word, score) in enumerate(zip(words, scores, strict=False)):
        text = shaded(word.text, score / heaviest)
        parts += [html(source[place : word.start]), f"<b>{text}</b>" if number in chosen else text]
        place = word.end
    body = "".join(parts) + html(source[place:])
    return f'<section>\n<p dir="auto">{body}</p>\n<p class="target" dir="auto">{html(target)}</p>\n</section>'


def shaded(text: str, weight: float) -> str:
    """Return a shaded word; `weight` in [-1, 1], negative in the colour of evidence against the target."""
    colour = "against" if weight < 0.0 else "for"
    opacity = STRONGEST * min(1.0, abs(weight))
    return f'<span style="background:rgba(var(--{colour}),{opacity:.2f})" title="{weight:+.2f}">{html(text)}</span>'
