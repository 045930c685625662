"""What a run computed with is freed as it ends, and not when Python next looks for cycles: caches may be gigabytes."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from tests.decoding.tiny import make_pair
from wheels.decoding.methods import method as methods
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models.cache import RaggedCache
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode, in_order
from wheels.decoding.teacher_forcing import teacher_force

RANDOM = RULES["random"].at(0.5)
WAYS = [
    methods.student_only(), methods.teacher_only(), methods.deferral(RANDOM), methods.deferral(RANDOM, 0.5, "strict"),
    methods.deferral(RULES["random"], 0.5, "online"), methods.verified(RANDOM), methods.speculative(2),
    methods.cascade("token-v3", 0.3), methods.take_back(4),
]  # fmt: skip


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref]]:
    """References to all caches that are made, while nothing looks for cycles."""
    made: list[weakref.ref] = []
    begin = RaggedCache.__init__

    def watched(cache: RaggedCache, *args: object, **more: object) -> None:
        begin(cache, *args, **more)
        made.append(weakref.ref(cache))

    monkeypatch.setattr(RaggedCache, "__init__", watched)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.name}-{way.mode}")
def test_the_caches_of_a_decode(caches: list[weakref.ref], way: methods.Method) -> None:
    decode(make_pair("t5"), ["a b", "c", "d e"], way, DecodeParams(max_new_tokens=4), batch_size=2)
    assert caches and not any(cache() for cache in caches)


def test_the_caches_of_texts_in_order_and_of_scores(caches: list[weakref.ref]) -> None:
    pair = make_pair("t5")
    list(in_order(pair, iter(["a b", "c"]), methods.speculative(2), DecodeParams(max_new_tokens=4), batch_size=2))
    teacher_force(pair, pair.encode(["a b"]), [[5, 6]], 2)
    assert caches and not any(cache() for cache in caches)
