"""Lines of a long job: what is committed stays, with the state that belongs to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wheels.errors import WheelsError
from wheels.runs import Lines


def written(path: Path, *lines: str, state: object = None) -> Lines:
    """Commit lines after those that are there."""
    made = Lines(path)
    for line in lines:
        made.append(line + "\n")
    made.commit({"state": state})
    return made


def test_a_job_goes_on_after_its_last_commit(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows"
    made = written(path, "a", "ü\u2028", state=1)
    made.append("lost\n")
    assert made.count == 3 and Lines(path).count == 2 and Lines(path).state == {"state": 1}
    with path.open("ab") as file:
        file.write(b"of a commit that was cut sh")
    written(path, "c", state=2)
    assert path.read_text() == "a\nü\u2028\nc\n" and Lines(path).count == 3 and Lines(path).state == {"state": 2}
    Lines(path).remove()
    assert [*path.parent.iterdir()] == []


def test_nothing_may_be_committed_with_a_state(tmp_path: Path) -> None:
    written(tmp_path / "rows", state=1)
    assert Lines(tmp_path / "rows").state == {"state": 1} and (tmp_path / "rows").read_bytes() == b""


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "note", "state"])
def test_what_is_damaged_is_said_and_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    path = tmp_path / "rows"
    written(path, "a", "b", state=1)
    content = {"flip": b"a\nc\n", "cut": b"a\n"}.get(damage, b"a\nb\n")
    path.write_bytes(content)
    if damage == "gone":
        path.unlink()
    if damage == "note":
        Lines.note_of(path).write_text('{"lines": 2, "bytes": "4", "of_lines": 0, "state": 1}')
    if damage == "state":
        note = Lines.note_of(path)
        note.write_text(note.read_text().replace('"state": 1', '"state": 2'))
    made = Lines(path)
    assert (made.count, made.state) == (0, {}) and f"{path} is damaged; it is made again" in caplog.text
    written(path, "x")
    assert path.read_text() == "x\n" and Lines(path).count == 1


def test_a_full_disk_leaves_what_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows"
    made = written(path, "a", state=1)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    made.append("b\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            WheelsError, match=r"cannot write .*rows: No space left on device; make room, and run it ag"
        ):
            made.commit({"state": 2})
    assert Lines(path).count == 1 and Lines(path).state == {"state": 1}
    made.commit({"state": 2})
    assert path.read_text() == "a\nb\n" and Lines(path).count == 2
