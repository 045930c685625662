"""Journals: a line is there as a whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wheels.errors import WheelsError
from wheels.runs import append_line, keep_lines, mend, put_line, whole_lines


@pytest.mark.parametrize("sync", [False, True])
def test_lines_are_added_and_read(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "new" / "a.jsonl"
    append_line(path, {"text": "ü\u2028\n"}, sync=sync)
    append_line(path, {"half": "\ud83d"}, sync=sync)
    assert whole_lines(path) == ['{"text": "ü\u2028\\n"}'.encode(), b'{"half": "\\ud83d"}']


def test_a_line_that_the_disk_has_no_room_for_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "a.jsonl", os.write
    append_line(path, {"step": 1})
    room = [7]

    def full(handle: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(handle, data[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(WheelsError, match=r"cannot write .*a\.jsonl: No space left on device; make room"):
            append_line(path, {"step": 2})
    append_line(path, {"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_line_that_was_cut_short_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    assert whole_lines(path) == mend(path) == mend(path) == [b'{"step": 1}']
    assert path.read_bytes() == b'{"step": 1}\n'
    path.write_bytes(b'{"st')
    assert mend(path) == [] and path.read_bytes() == b""
    with pytest.raises(WheelsError, match=r"cannot read .*none: No such file"):
        whole_lines(tmp_path / "none")


def test_what_is_not_wanted_is_dropped_and_what_is_damaged_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    keep_lines(path, lambda line: True)
    assert not path.exists()
    lines = ['{"step": 1}', "null", '{"step": "x"}', "{", '{"other": 1}', '{"step": 2, "loss": NaN}', '{"step": 3}']
    path.write_text("\n".join([*lines, '{"step": 1']))
    keep_lines(path, lambda line: line["step"] <= 2, "step")
    assert path.read_text() == '{"step": 1}\n{"step": 2, "loss": NaN}\n'


def test_a_line_takes_the_place_of_the_one_about_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for record in ({"of": 1, "x": "a"}, {"of": 2}, {"of": 1, "x": "b"}):
        put_line(path, record, lambda old, record=record: old.get("of") == record["of"])
    assert path.read_text() == '{"of": 1, "x": "b"}\n{"of": 2}\n'
    path.write_text('null\n{"of": 1}\n{"cut')
    put_line(path, {"of": 3}, lambda old: False)
    assert path.read_text() == 'null\n{"of": 1}\n{"of": 3}\n'
