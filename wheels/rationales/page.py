"""The rationale page: the words of each source shaded by weight, the rationale's words marked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from wheels.rationales.words import top_words, words_of
from wheels.visible import html

CSS = """
:root{color-scheme:light dark;--ink:#222;--pale:#666;--paper:#fff;--line:#ddd;--for:230,110,30;--against:60,120,200}
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--pale:#999;--paper:#17181a;--line:#3a3c40}}
body{font:16px/1.6 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:52rem;margin:2.5rem auto;
padding:0 1.2rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 1rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;margin:0 0 2rem}
dt{color:var(--pale)}dd{margin:0;overflow-wrap:anywhere}
section{border-left:3px solid var(--line);padding:.1rem 0 .1rem 1rem;margin:1.4rem 0}
section p{margin:.2rem 0;white-space:pre-wrap;overflow-wrap:anywhere}
.target{color:var(--pale);font-size:.92rem}
span{border-radius:3px;padding:.05em .1em}
b{font-weight:650;text-decoration:underline;text-underline-offset:.2em;text-decoration-thickness:2px}
"""
STRONGEST = 0.6
"""Opacity of the heaviest word's shade: ink on it stays legible on white and on black paper."""

Shown = tuple[str, str, Sequence[tuple[str, float]], int]
"""Source, target, the words of the source with their scores, and how many of them make the rationale."""


def page(rows: Iterable[Shown], facts: Mapping[str, str]) -> str:
    """Return a self-contained page without scripts: whatever the texts hold is only shown.

    Args:
        rows: what is shown; the shade of a word is its size relative to the heaviest word of its own source.
        facts: names and values at the top.
    """
    head = "\n".join(f"<dt>{html(name)}</dt><dd>{html(value)}</dd>" for name, value in facts.items())
    sections = "\n".join(section(*row) for row in rows)
    # The policy lets a browser load and run nothing, should an escape ever be forgotten.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What the teacher looked at</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<h1>What the teacher looked at</h1>\n<dl>\n{head}\n"
        f"<dt>shade</dt><dd>{shaded('for', 1.0)} the target, {shaded('against', -1.0)} it; "
        "<b>underlined</b>: in the rationale</dd>\n"
        f"</dl>\n{sections}\n</body>\n</html>\n"
    )


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
