"""Whose a folder is, which run it holds, and that one process at a time writes there."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from wheels.errors import WheelsError
from wheels.runs import LOCK, NOTE, begin_run, claimed, holds_run


@dataclass(frozen=True)
class Config:
    seed: int = 3


@pytest.mark.parametrize("name", ["thesis.tex", "data/train.jsonl", ".git/config", "checkpoints/mine"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(WheelsError, match=r"holds something else \(.*\); give a new or an empty folder by --output"),
        claimed(tmp_path),
    ):
        pytest.fail("the work began")
    assert sorted(tmp_path.rglob("*")) == before and mine.read_text() == "mine"


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "x", "/dev/null"):
        with pytest.raises(WheelsError, match=r"cannot write .*; choose another place"), claimed(place):
            pytest.fail("the work began")


@pytest.mark.parametrize("there", [True, False])
def test_a_start_that_failed_leaves_nothing(tmp_path, there):
    folder = tmp_path / "new" / "out"
    if there:
        folder.mkdir(parents=True)
    with pytest.raises(WheelsError, match="no such teacher"), claimed(folder):
        begin_run(folder, "train", Config(), {"teacher": "wrong"})
        raise WheelsError("no such teacher")
    assert list(folder.iterdir()) == [] if there else not folder.exists()


def test_a_run_that_left_something_holds_its_folder(tmp_path):
    folder = tmp_path / "out"
    for error in (KeyboardInterrupt, None):
        try:
            with claimed(folder):
                assert holds_run(folder, "train", {"seed": 3, "data": "a", "data_digest": "x"}) is (error is None)
                begin_run(folder, "train", Config(), {"seed": 3, "data": "a", "data_digest": "x"})
                (folder / "part").write_text("half")
                if error:
                    raise error
        except KeyboardInterrupt:
            pass
    assert holds_run(folder, "train", {"seed": 3, "data": "moved", "data_digest": "x"})
    with pytest.raises(WheelsError, match=r"out holds a run with data_digest 'x', not 'y'; give another --output, or"):
        holds_run(folder, "train", {"seed": 3, "data": "a", "data_digest": "y"})
    with pytest.raises(WheelsError, match="out holds a run of the command train, not of pretrain"):
        holds_run(folder, "pretrain", {}, kept=False)
    assert not holds_run(folder, "train", {"seed": 4}, kept=False), "what is there is not worth keeping"
    with pytest.raises(WheelsError, match="with seed 3, not 4"):
        holds_run(folder, "train", {"seed": 4, "more": 1}, grows=True)
    assert holds_run(folder, "train", {"seed": 3, "more": 1}, grows=True)


@pytest.mark.parametrize("content", ["[]", "{}", '{"command": "train", "identity": 3}', "{"])
def test_a_note_that_is_none_is_refused(tmp_path, content):
    (tmp_path / NOTE).write_text(content)
    with pytest.raises(WheelsError, match=r"run\.json"):
        holds_run(tmp_path, "train", {})


def test_a_kill_right_after_the_note_was_written_holds_nothing(tmp_path):
    begin_run(tmp_path, "train", Config(), {"teacher": "wrong"})
    for name in (LOCK, f".{NOTE}.3f2a"):
        (tmp_path / name).write_text("")
    with claimed(tmp_path):
        assert not holds_run(tmp_path, "train", {"teacher": "right"})


HOLDING = """
import sys, time
from wheels.runs import claimed
with claimed(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_starter_is_told_and_the_lock_ends_with_the_process(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(WheelsError, match="out is held by another process; wait until it ends, or stop it"),
            claimed(folder),
        ):
            pytest.fail("the work began")
        with monkeypatch.context() as patch:
            patch.setenv("RANK", "1")  # its first process holds it
            with claimed(folder):
                pass
        first.kill()
    with claimed(folder):
        assert (folder / LOCK).exists()


def test_the_note_holds_the_whole_configuration(tmp_path):
    begin_run(tmp_path, "train", Config(), {"x": 1})
    assert json.loads((tmp_path / NOTE).read_text()) == {
        "command": "train", "config": {"seed": 3}, "identity": {"x": 1},
    }  # fmt: skip
