"""The clients of the load: every stream is read to its end, and counted once."""

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from wheels.benchmarks.serving.beside import PAIR, TEACHER, Round, row_of
from wheels.benchmarks.serving.clients import Waits, load, quantile
from wheels.benchmarks.serving.load import main

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
        answers = [server.post(body).json() for body in bodies]
        expected = [answer["usage"]["completion_tokens"] for answer in answers]
        assert waits.tokens == sum(expected) and len(waits.first) == len(waits.rates) == 12 and not waits.errors
        assert waits.texts == {text: answers[index]["choices"][0]["text"] for index, text in enumerate(TEXTS)}
        assert len(waits.first) + len(waits.between) <= waits.tokens
        assert asyncio.run(load(port, [server.body(max_tokens=0)], 1, waits)) > 0
        assert waits.errors == ["a stream without an end"]


@pytest.mark.slow
@needs_server
def test_a_load_counts_what_the_server_takes(tmp_path: Path) -> None:
    main(["--users", "3", "--texts", "6", "--rounds", "2", "--max-tokens", "8", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "load.json").read_text())
    assert found["streams"] == 12 and found["errors"] == 0 and len(found["memory_mib"]) == 2
    assert all(value > 100 for value in found["memory_mib"]), "the server's, in MiB"
    assert 0 < found["processor_ratio"]["median"] < 5 and 0 < found["seconds"] < 60
    assert 0 < found["first_ms"]["p50"] <= found["first_ms"]["p95"]


def test_a_row_says_how_fast_all_and_each_were_and_who_wrote_as_the_teacher() -> None:
    waits = Waits([0.1, 0.3], [0.2], [10.0, 20.0], [], 30, {"a": "x", "b": "y"})
    row = row_of(PAIR, 2, [Round(waits, 3.0, 2.0)], {"a": "x", "b": "z"})
    assert row["tokens_per_second"]["median"] == 10.0 and row["tokens_per_processor_second"]["median"] == 15.0
    assert row["per_user"] == {"median": 15.0, "low": 10.0, "high": 20.0}
    assert row["as_teacher"] == 0.5 and row_of(TEACHER, 2, [Round(waits, 3.0, 2.0)], waits.texts)["as_teacher"] == 1.0


def test_a_quantile_is_in_milliseconds() -> None:
    assert quantile([0.3, 0.1, 0.2], 0.5) == 200.0 and quantile([0.5], 0.95) == 500.0
