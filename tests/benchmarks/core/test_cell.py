from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.curve.synthetic import record
from wheels.benchmarks.core.cell import PointKey, Record, cached_records
from wheels.decoding.trace import Trace

KEY = PointKey("learned", 2, 0.05)
SIGNATURE = {"model": "abc", "threshold": 1.5, "rule": "learned"}


def test_record_of_a_trace() -> None:
    trace = Trace(
        text="a b",
        token_ids=(5, 6, 1),
        spell=lambda ids: "".join({5: "a", 6: " b", 1: ""}[token] for token in ids),
        authors=("student", "teacher", "teacher"),
        teacher_passes=2,
        teacher_positions=3,
        prompt_positions=9,
        budget=0.2,
        mode="average",
        rule="learned",
        seconds=0.5,
        finished=True,
    )
    found = Record.of(trace)
    assert found == Record("a b", 3, 2, 2, 3, 0.5, ("a", " b", ""), ("student", "teacher", "teacher"), (5, 6, 1))
    assert found.use == pytest.approx(2 / 3)
    assert Record("", 0, 0, 0, 0, 0.0).use == 0.0


def test_records_come_back_as_they_were_and_are_decoded_once(tmp_path: Path) -> None:
    records = [record(20.0, 1, 3), Record("ü\u2028\x85 \U0001f600\n", 0, 0, 0, 0, 0.0)]
    assert cached_records(tmp_path, KEY, SIGNATURE, lambda: records) == records
    assert [path.name for path in tmp_path.glob("*.gz")] == ["learned-2-0.05.jsonl.gz"]
    assert cached_records(tmp_path, KEY, SIGNATURE, lambda: pytest.fail("decoded again")) == records
