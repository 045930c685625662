"""The embedded summarization corpus: reports of three to six sentences, each with the one fact that matters."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from random import Random
from typing import Any

from wheels.data.corpora.cldr import Pools, Words
from wheels.data.corpora.reports import ASIDES, TOPICS, Phrases, Topic
from wheels.data.corpora.translation import capitalised, draw_values, fill
from wheels.errors import WheelsError

Values = dict[str, Any]
# Below this, prices near each other are the same price in a currency without decimals.
_LEAST_PRICE = Decimal(50)


def summarization_rows(locale: str, random: Random) -> Iterator[tuple[str, str]]:
    """Yield (report, summary) without end.

    Args:
        locale: of the report and of its summary; its language must be one that `reports.TOPICS` is written in.
        random: all that is drawn comes from here.

    Raises:
        WheelsError: where no reports are written in that language.
    """
    words = Words(locale)
    if words.language not in ASIDES:
        raise WheelsError(f"embedded-summarization is written in {', '.join(sorted(ASIDES))}, got {locale!r}")
    pools = Pools([words])
    topics = list(TOPICS.values())
    while True:
        topic = random.choice(topics)
        yield _report(topic, topic.phrases[words.language], words, pools, random)


def _report(topic: Topic, phrases: Phrases, words: Words, pools: Pools, random: Random) -> tuple[str, str]:
    """Return a report on `topic` and its summary."""
    aside, opening = random.choice(ASIDES[words.language]), random.choice(phrases.openings)
    drawn = draw_values(opening + phrases.summary + aside, pools, random)
    own = (*topic.items, topic.value)
    shared = {slot: value for slot, value in drawn.items() if slot not in own and slot.removesuffix("2") not in own}
    items = _items(topic, random.choice((2, 3, 3, 4)), words, pools, random)
    said = [fill(random.choice(phrases.items), item, words) for item in items]
    sentences = [fill(opening, shared, words), *said, *random.choice(([], [fill(aside, shared, words)]))]
    text, chosen = _fact(topic, phrases, items)
    return " ".join(map(capitalised, sentences)), capitalised(fill(text, shared | chosen, words))


def _items(topic: Topic, count: int, words: Words, pools: Pools, random: Random) -> list[Values]:
    """Return `count` items that differ in every slot and, in the text as well, in the value that is compared."""
    items: list[Values] = []
    taken: set[tuple[str, str]] = set()
    first = pools.draw(topic.value, random)
    while len(items) < count:
        item = {slot: pools.draw(slot, random) for slot in topic.items}
        item[topic.value] = _alike(topic.value, first, pools, random)
        said = {(slot, words.say(slot, value)) for slot, value in item.items()}
        if not said & taken:
            taken |= said
            items.append(item)
    return items


def _alike(kind: str, first: Any, pools: Pools, random: Random) -> Any:
    """Return another value of `kind` that can be compared with `first`: of the same unit or currency, and near it."""
    change = random.randrange(60, 150)
    if kind == "number":
        return first * change // 100
    if kind == "price":
        return round(max(first[0], _LEAST_PRICE) * change / 100, 2), first[1]
    value = pools.draw(kind, random)
    while isinstance(value, tuple) and value[1] != first[1]:
        value = pools.draw(kind, random)
    return value


def _fact(topic: Topic, phrases: Phrases, items: list[Values]) -> tuple[str, Values]:
    """Return the frame of the summary and the values of the items that it states."""
    if topic.pick != "change":
        choose = max if topic.pick == "largest" else min
        return phrases.summary, choose(items, key=lambda item: item[topic.value])
    old, new = (choose(items, key=lambda item: item["date"]) for choose in (min, max))
    values = {**old, "date2": new["date"], f"{topic.value}2": new[topic.value]}
    return phrases.summary if new[topic.value] > old[topic.value] else phrases.falling, values
