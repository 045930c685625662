"""The loopback writes what the teacher does, and the benchmarks' arithmetic is that of their tables."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.decoding.tiny import make_pair, write
from tests.envs.tiny import SOURCES
from wheels.benchmarks.remote import latency, money
from wheels.benchmarks.remote.loopback import BLOCK, NAME, Loopback, PromptCache
from wheels.decoding.methods.method import teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.prices import Prices
from wheels.decoding.remote.teacher import RemoteTeacher

PRICES = Prices(0.4, 1.6, 0.1)


@pytest.fixture(params=["llama", "t5"])
def served(request) -> Iterator[Any]:
    pair = make_pair(request.param)
    server = Loopback(pair)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield pair, server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_loopback_is_the_teacher(served):
    pair, server = served
    remote = RemoteTeacher(server.url(), NAME, prices=PRICES, on_error="stop", span="tokens:4")
    there = RemotePair(pair.student, remote, pair.tokenizer)
    settings: dict[str, Any] = {"max_new_tokens": 40, "batch_size": 4}
    for method, budget, mode in [(teacher_only(), 1.0, "average"), (RULES["random"], 0.5, "online")]:
        found = write(there, SOURCES, method, budget=budget, mode=mode, **settings)
        if budget == 1.0:
            here = write(pair, SOURCES, method, budget=budget, **settings)
            assert [trace.token_ids for trace in found] == [trace.token_ids for trace in here]
    assert remote.ledger.usage.cached > 0, "texts of more than a block were read before"
    remote.close()


def test_prompts_are_cached_in_whole_blocks():
    cache, text = PromptCache(), list(range(3 * BLOCK))
    assert [cache.read(text[:end]) for end in (BLOCK - 1, BLOCK, BLOCK + 5, 3 * BLOCK, 3 * BLOCK)] == [
        *(0, 0, BLOCK, BLOCK, 3 * BLOCK)
    ]
    assert cache.read([9, *text]) == 0, "another beginning"


def test_whole_texts_are_chosen_as_far_as_the_money_goes():
    student = money.Written(["s"] * 4, [0] * 4, 0, 0.0)
    teacher = money.Written(["t"] * 4, [5, 4, 3, 2], 14, 1.0)
    found = money.routed(student, teacher, [0, 1, 2, 3], 10)
    assert (found.texts, found.spent, found.use) == (["t", "t", "s", "s"], 9, 0.5)
    assert money.routed(student, teacher, [3, 2, 1, 0], 10).texts == ["s", "t", "t", "t"]


def test_a_row_of_latency():
    rounds = [{"tokens": 10, "seconds": s, "use": 0.2, "calls": 4, "guessed": g} for s, g in [(1, 1), (2, 2), (5, 3)]]
    row = latency.row_of((1, 50.0, "tokens:4", True), rounds)
    assert row["tokens_per_second"] == {"median": 5.0, "low": 2.0, "high": 10.0}
    assert row["hidden"] == 0.5 and row["write_on"] is True
    cells = latency.cells_of(latency.LatencyConfig())
    assert (16, 50.0, "auto", False) in cells and (16, 50.0, "auto", True) not in cells
    assert (1, 50.0, "auto", True) in cells and (16, 50.0, "tokens:1", True) in cells


@pytest.mark.slow
def test_both_run_on_the_embedded_pair(tmp_path):
    latency.main(
        ["--output", str(tmp_path), "--texts", "2", "--rounds", "1", "--latencies", "0,5", "--batch-sizes", "1"]
    )
    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert len(rows) == 1 + 2 * 4 * 2 and all(row["tokens_per_second"]["low"] > 0 for row in rows)
    money.main(
        [
            "--output",
            str(tmp_path),
            "--texts",
            "6",
            "--ceilings",
            "0.8",
            "--spans",
            "auto,tokens:1,tokens:4",
            "--resamples",
            "10",
        ]
    )
    rows = {row["way"]: row for row in json.loads((tmp_path / "money.json").read_text())["rows"]}
    assert rows["student"]["dollars"] == 0 < rows["calls of 4"]["kept"] <= 1
    assert rows["teacher"]["dollars"] * 0.8 == pytest.approx(rows["calls of 1"]["ceiling"], rel=1e-6)
