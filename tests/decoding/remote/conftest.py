"""A pair whose teacher is here, and behind a fake server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.decoding.remote.fake_vllm import NAME, FakeVllm, fake_vllm
from tests.decoding.tiny import make_pair
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.models.pair import Pair

Far = Callable[..., RemotePair]


@pytest.fixture(scope="session")
def pair() -> Pair:
    return make_pair("llama")


@pytest.fixture
def server(pair: Pair) -> Iterator[FakeVllm]:
    with fake_vllm(pair.teacher, pair.tokenizer) as running:
        yield running


@pytest.fixture
def far(pair: Pair) -> Iterator[Far]:
    """Return a function that pairs the student with the teacher behind a server."""
    teachers: list[RemoteTeacher] = []

    def make(server: FakeVllm, **settings: Any) -> RemotePair:
        teachers.append(RemoteTeacher(server.url, NAME, **{"on_error": "stop"} | settings))
        return RemotePair(pair.student, teachers[-1], pair.tokenizer)

    yield make
    for teacher in teachers:
        teacher.close()
