from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.benchmarks.curve.synthetic import record
from wheels.benchmarks.core.cell import PointKey, Record, load_point, save_point
from wheels.decoding.trace import Trace
from wheels.errors import WheelsError

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


def test_a_point_comes_back_as_it_was(tmp_path: Path) -> None:
    records = [record(20.0, 1, 3), Record("ü\u2028\x85 \U0001f600\n", 0, 0, 0, 0, 0.0)]
    path = save_point(tmp_path, KEY, SIGNATURE, records)
    assert path.name == "learned-2-0.05.jsonl.gz"
    assert load_point(tmp_path, KEY, SIGNATURE) == records


def test_a_point_of_a_rule_that_never_calls_is_kept(tmp_path: Path) -> None:
    signature = SIGNATURE | {"threshold": float("inf")}
    save_point(tmp_path, KEY, signature, [record(20.0, 1, 3)])
    assert load_point(tmp_path, KEY, signature) == [record(20.0, 1, 3)]


def test_a_point_that_was_kept_without_token_ids_is_read(tmp_path: Path) -> None:
    path = save_point(tmp_path, KEY, SIGNATURE, [record(20.0, 1, 3)])
    lines = gzip.decompress(path.read_bytes()).decode().replace(', "token_ids": []', "")
    assert "token_ids" not in lines
    path.write_bytes(gzip.compress(lines.encode()))
    assert load_point(tmp_path, KEY, SIGNATURE) == [record(20.0, 1, 3)]


def test_a_point_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    first = save_point(tmp_path, KEY, SIGNATURE, [record(20.0, 1, 3)]).read_bytes()
    assert save_point(tmp_path, KEY, dict(reversed(SIGNATURE.items())), [record(20.0, 1, 3)]).read_bytes() == first
    assert first[4:8] == bytes(4)  # gzip's clock


@pytest.mark.parametrize("changed", [{"model": "abd"}, {"threshold": 1.25}, {"threshold": None}, {"more": 1}])
def test_a_point_made_otherwise_does_not_count(tmp_path: Path, changed: dict[str, object]) -> None:
    save_point(tmp_path, KEY, SIGNATURE, [record(20.0, 1, 3)])
    assert load_point(tmp_path, KEY, SIGNATURE | changed) is None


def zipped(content: bytes) -> bytes:
    """Without gzip's clock, which would name the cases differently in each worker."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        zipped(b""),
        zipped(b"{"),
        zipped(b"\xff"),
        zipped(json.dumps(SIGNATURE).encode() + b'\n{"text": 1}'),
        zipped(json.dumps(SIGNATURE).encode() + b"\n7"),
        zipped(json.dumps(SIGNATURE).encode())[:-9],
    ],
    ids=["empty", "no gzip", "nothing", "cut", "no UTF-8", "no record", "no object", "torn"],
)
def test_a_damaged_point_does_not_count(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY.file_name).write_bytes(content)
    assert load_point(tmp_path, KEY, SIGNATURE) is None


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "points").write_text("a file")
    with pytest.raises(WheelsError, match=r"cannot write .*learned-2-0.05"):
        save_point(tmp_path / "points", KEY, SIGNATURE, [])
