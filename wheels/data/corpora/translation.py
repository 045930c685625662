"""The embedded translation corpus: one sentence frame filled with CLDR's names and formats, in two languages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from wheels.data.corpora.cldr import Pools, Words
from wheels.data.corpora.frames import FALLBACK, FRAMES
from wheels.errors import WheelsError

_SLOT = re.compile(r"\{(([a-z]+)\d?)(?:\.([a-z]+))?\}")


def capitalised(text: str) -> str:
    """Return `text` with its first letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def fill(text: str, values: Mapping[str, Any], words: Words) -> str:
    """Return the frame `text` with each slot replaced by what `words` says for its value."""
    return _SLOT.sub(lambda slot: words.say(slot[2], values[slot[1]], slot[3] or ""), text)


def kinds_of(text: str) -> set[str]:
    """Return the kinds of the slots of `text`."""
    return {kind for _, kind, _ in _SLOT.findall(text)}


def draw_values(text: str, pools: Pools, random: Random) -> dict[str, Any]:
    """Return a value for every slot of `text`; two slots of one kind never hold the same value."""
    values: dict[str, Any] = {}
    for name, kind in sorted({slot[:2] for slot in _SLOT.findall(text)}):
        value = pools.draw(kind, random)
        while any(value == other for key, other in values.items() if key.rstrip("0123456789") == kind):
            value = pools.draw(kind, random)
        values[name] = value
    return values


def frames_of(source: Words, target: Words) -> dict[str, tuple[str, str]]:
    """Return the frames of two languages, (source text, target text): hand-written ones, or CLDR's bare values."""
    both = {
        key: (texts[source.language], texts[target.language])
        for key, texts in FRAMES.items()
        if source.language in texts and target.language in texts
    }
    return both or {key: (text, text) for key, text in FALLBACK.items()}


def translation_rows(locales: tuple[str, str], random: Random) -> Iterator[tuple[str, str]]:
    """Yield (source, target) sentences without end.

    Args:
        locales: the locale of the source and of the target, as ("de", "en").
        random: all that is drawn comes from here.

    Raises:
        WheelsError: where a locale is unknown, or both are the same.
    """
    source, target = Words(locales[0]), Words(locales[1])
    if str(source.locale) == str(target.locale):
        raise WheelsError(f"embedded-translation needs two different locales, got {locales[0]!r} twice")
    pools = Pools([source, target])
    frames = [texts for texts in frames_of(source, target).values() if all(map(pools.has, kinds_of(texts[0])))]
    while True:
        texts = random.choice(frames)
        values = draw_values(texts[0], pools, random)
        yield capitalised(fill(texts[0], values, source)), capitalised(fill(texts[1], values, target))
