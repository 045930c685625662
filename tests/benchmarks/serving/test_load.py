"""The clients of the load: every stream is read to its end, and counted once."""

import asyncio
from importlib.util import find_spec

import pytest

from wheels.benchmarks.serving.load import Waits, load, quantile

needs_server = pytest.mark.skipif(not all(map(find_spec, ("fastapi", "uvicorn", "openai"))), reason="no server")


@pytest.mark.slow
@needs_server
def test_all_texts_are_written_and_errors_are_seen() -> None:
    from tests.decoding.serve.harness import TEXTS, served
    from wheels.models.artefact import Artefact

    with served(Artefact.load(), batch_size=4) as server:
        port, waits = int(server.url.rpartition(":")[2]), Waits()
        bodies = [server.body(prompt=text, max_tokens=12) for text in TEXTS * 4]
        assert asyncio.run(load(port, bodies, 5, waits)) > 0
        expected = [server.post(body).json()["usage"]["completion_tokens"] for body in bodies]
        assert waits.tokens == sum(expected) and len(waits.first) == 12 and not waits.errors
        assert len(waits.first) + len(waits.between) <= waits.tokens
        assert asyncio.run(load(port, [server.body(max_tokens=0)], 1, waits)) > 0
        assert waits.errors == ["a stream without an end"]


def test_a_quantile_is_in_milliseconds() -> None:
    assert quantile([0.3, 0.1, 0.2], 0.5) == 200.0 and quantile([0.5], 0.95) == 500.0
