"""Whose a folder is, which run it holds, and that one process at a time writes there."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from wheels.errors import WheelsError
from wheels.runs import LOCK, NOTE, checked, claim, find, results_in


@dataclass(frozen=True)
class Config:
    seed: int = 3


CONFIG = Config()


@pytest.mark.parametrize("name", ["thesis.tex", "data/train.jsonl", ".git/config", "checkpoints/mine"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(WheelsError, match=r"holds something else \(.*\); give a new or an empty folder by --output"),
        claim(tmp_path, "train", CONFIG, {}),
    ):
        pytest.fail("the work began")
    assert sorted(tmp_path.rglob("*")) == before and mine.read_text() == "mine"


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "x", "/dev/null"):
        with (
            pytest.raises(WheelsError, match=r"cannot write .*; choose another place"),
            claim(place, "train", CONFIG, {}),
        ):
            pytest.fail("the work began")


@pytest.mark.parametrize("there", [True, False])
def test_a_start_that_failed_leaves_nothing(tmp_path, there):
    folder = tmp_path / "new" / "out"
    if there:
        folder.mkdir(parents=True)
    with pytest.raises(WheelsError, match="no such teacher"), claim(folder, "train", CONFIG, {"teacher": "wrong"}):
        raise WheelsError("no such teacher")
    assert list(folder.iterdir()) == [] if there else not folder.exists()


def test_a_run_that_left_something_holds_its_folder(tmp_path):
    folder, identity = tmp_path / "out", {"seed": 3, "data": "a", "data_digest": "x"}
    with pytest.raises(KeyboardInterrupt), claim(folder, "train", CONFIG, identity) as run:
        assert not run.resumed and not run.finished
        (folder / "part").write_text("half")
        raise KeyboardInterrupt
    with claim(folder, "train", CONFIG, {"seed": 3, "data": "moved", "data_digest": "x"}) as run:
        assert run.resumed and not run.finished
    with (
        pytest.raises(WheelsError, match=r"out holds a run with data_digest 'x', not 'y'; give another --output, or"),
        claim(folder, "train", CONFIG, identity | {"data_digest": "y"}),
    ):
        pytest.fail("the work began")
    with (
        pytest.raises(WheelsError, match="out holds a run of the command train, not of pretrain"),
        claim(folder, "pretrain", CONFIG, {}, kept=lambda: False),
    ):
        pytest.fail("the work began")
    with claim(folder, "train", CONFIG, {"seed": 4}, kept=lambda: False) as run:
        assert not run.resumed and run.note["identity"] == {"seed": 4}, "what is there is not worth keeping"


def test_a_run_may_grow_in_its_folder(tmp_path):
    for number, identity in enumerate(({"seed": 3, "a": 1}, {"seed": 3, "b": 2}, {"seed": 3, "a": 1})):
        with claim(tmp_path, "train", CONFIG, identity, grows=True) as run:
            assert run.resumed is (number > 0)
            (tmp_path / "part").write_text("half")
    assert run.note["identity"] == {"seed": 3, "a": 1, "b": 2}
    with pytest.raises(WheelsError, match="with a 1, not 2"):
        find(tmp_path, "train", {"seed": 3, "a": 2}, grows=True)


def test_a_run_is_finished_while_its_result_is_whole(tmp_path, caplog):
    folder, other = tmp_path / "out", tmp_path / "rows.jsonl"

    def finished(identity):
        with claim(folder, "train", CONFIG, identity) as run:
            return run.finished

    with claim(folder, "train", CONFIG, {"seed": 3}) as run:
        for file in (folder / "model", other):
            file.write_text("whole")
        run.finish(folder / "model", other)
        assert run.finished
    assert finished({"seed": 3}) and not caplog.text
    other.write_text("whole!")
    assert not finished({"seed": 3}) and "rows.jsonl is gone or damaged; it is made again" in caplog.text
    other.write_text("whole")
    assert finished({"seed": 3})
    (folder / "model").unlink()
    assert not finished({"seed": 3})


def test_a_run_of_another_version_is_refused(tmp_path):
    (tmp_path / NOTE).write_text('{"command": "train", "identity": {"seed": 3}}')
    assert find(tmp_path, "train", {"seed": 3}) is None, "it has left nothing"
    (tmp_path / "part").write_text("half")
    with pytest.raises(WheelsError, match="holds a run of another version of wheels; give another --output, or remove"):
        find(tmp_path, "train", {"seed": 3})


@pytest.mark.parametrize("content", ["[]", "{}", '{"command": "train", "identity": 3}', "{"])
def test_a_note_that_is_none_is_refused(tmp_path, content):
    (tmp_path / NOTE).write_text(content)
    with pytest.raises(WheelsError, match=r"run\.json"):
        find(tmp_path, "train", {})


def test_a_kill_right_after_the_note_was_written_holds_nothing(tmp_path):
    with claim(tmp_path, "train", CONFIG, {"teacher": "wrong"}):
        pass
    for name in (LOCK, f".{NOTE}.3f2a"):
        (tmp_path / name).write_text("")
    with claim(tmp_path, "train", CONFIG, {"teacher": "right"}) as run:
        assert not run.resumed


HOLDING = """
import sys, time
from tests.runs.test_claim import CONFIG
from wheels.runs import claim
with claim(sys.argv[1], "train", CONFIG, {}):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("removed", [False, True])
def test_the_second_starter_is_told_and_the_lock_ends_with_the_process(removed, tmp_path, monkeypatch):
    """Where somebody removes the lock file, too."""
    folder = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        if removed:
            (folder / LOCK).unlink()
        with (
            pytest.raises(WheelsError, match="out is held by another process; wait until it ends, or stop it"),
            claim(folder, "train", CONFIG, {}),
        ):
            pytest.fail("the work began")
        with monkeypatch.context() as patch:
            patch.setenv("RANK", "1")  # its first process holds it
            with claim(folder, "train", CONFIG, {}):
                pass
        first.kill()
    with claim(folder, "train", CONFIG, {}):
        assert (folder / LOCK).exists()


def test_the_note_holds_the_whole_configuration(tmp_path):
    with claim(tmp_path, "train", CONFIG, {"x": 1}) as run:
        run.note["more"] = 7
        run.save()
    assert json.loads((tmp_path / NOTE).read_text()) == checked(
        {"format": 1, "command": "train", "config": {"seed": 3}, "identity": {"x": 1}, "more": 7}
    )


def test_a_note_that_is_damaged_is_refused(tmp_path):
    with claim(tmp_path, "train", CONFIG, {"x": 1}) as run:
        run.note["used"] = {"calls": 70}
        run.save()
    note = (tmp_path / NOTE).read_text()
    (tmp_path / NOTE).write_text(note.replace("70", "71"))
    with pytest.raises(WheelsError, match=r"run\.json: damaged: the checksum is not that of the content; give another"):
        find(tmp_path, "train", {"x": 1})


def test_what_a_kill_left_is_swept_at_the_next_start(tmp_path):
    """But not within a run that another process may hold, nor what only looks like it."""
    mine = [tmp_path / "out" / name for name in (".gitignore", ".a.json.old", ".b.json.12345678x", "inner/run.json")]
    inner = tmp_path / "out" / "inner" / ".run.json.0a1b2c3d"
    left = [tmp_path / "out" / name for name in ("deep/.a.json.0a1b2c3d", ".model.0a1b2c3d.old", ".saving.ab_9zzzz")]
    with claim(tmp_path / "out", "train", CONFIG, {}):
        for path in (*mine, inner, *left):
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
        left[1].unlink()
        left[1].mkdir()
        (left[1] / "weights").write_text("half")
    with claim(tmp_path / "out", "train", CONFIG, {}):
        assert not [path for path in left if path.exists()]
        assert all(path.exists() for path in (*mine, inner))


def test_the_files_of_a_result(tmp_path):
    for name in ("config.json", "run.json", LOCK, "metrics.jsonl", "calibration.json", "deep/weights"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert results_in(tmp_path, tmp_path / "deep") == [tmp_path / "config.json", tmp_path / "deep" / "weights"]
