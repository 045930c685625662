"""Outputs are written whole or not at all, and what a user has at their place is not harmed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wheels.errors import WheelsError
from wheels.files import check_writable, lock_itself, new_folder, open_output, room, write_bytes, write_text


@pytest.fixture
def umask():
    before = os.umask(0o007)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_fifo_is_written_into(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_text(fifo, "hello")
    assert os.read(reader, 10) == b"hello"
    assert fifo.is_fifo()
    os.close(reader)


def test_a_device_is_written_into(tmp_path):
    node = tmp_path / "null"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        write_text(node, "hello")
    except (PermissionError, WheelsError):
        pytest.skip("no device nodes can be made, or opened, here")
    assert node.is_char_device()


def test_of_a_link_the_target_is_written(tmp_path):
    real, link, chain = tmp_path / "deep" / "real.txt", tmp_path / "link.txt", tmp_path / "chain.txt"
    link.symlink_to("deep/real.txt")
    chain.symlink_to("link.txt")
    write_text(chain, "new")  # a link to what is not there yet
    assert real.read_text() == "new"
    write_text(link, "newer")
    assert chain.is_symlink() and link.is_symlink() and real.read_text() == "newer"
    assert {path.name for path in tmp_path.rglob("*")} == {"deep", "real.txt", "link.txt", "chain.txt"}


@pytest.mark.parametrize("write", [write_text, check_writable])
def test_what_cannot_be_a_file_is_refused(tmp_path, write):
    more = () if write is check_writable else ("x",)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "file").write_text("mine")
    for name, why in (("circle", ""), ("", "it is a folder; give the name of a file"), ("file/x", "is not a folder")):
        with pytest.raises(WheelsError, match=f"cannot write .*{why}"):
            write(tmp_path / name, *more)
    assert (tmp_path / "file").read_text() == "mine"


def test_modes_are_the_umasks_or_those_that_were_there(tmp_path, umask):
    path = write_text(tmp_path / "new" / "file", "x")
    assert (mode(path), mode(path.parent)) == (0o660, 0o770)
    path.chmod(0o604)
    write_text(path, "y")
    assert (path.read_text(), mode(path)) == ("y", 0o604)
    with new_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("a")
    assert mode(tmp_path / "folder") == 0o770
    (tmp_path / "folder").chmod(0o700)
    with new_folder(tmp_path / "folder") as folder:
        (folder / "b").write_text("b")
    assert mode(tmp_path / "folder") == 0o700
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]


def test_a_file_that_may_not_be_written_to_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("mine")
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda place, how: bool(Path(place).stat().st_mode & 0o200))  # as for a user
    with pytest.raises(WheelsError, match=r"file: it may not be written to; choose another place"):
        write_bytes(path, b"ours")
    assert path.read_text() == "mine"


def test_an_error_within_the_block_leaves_the_old_file(tmp_path):
    path = write_text(tmp_path / "file", "old")
    with pytest.raises(KeyboardInterrupt), open_output(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def filled(path):
    with new_folder(path) as folder:
        write_text(folder / "a", "a")


@pytest.mark.parametrize("write", [lambda path: write_text(path, "new"), filled])
def test_what_a_kill_left_is_swept_at_the_next_write_and_nothing_else(tmp_path, write):
    names = (".out.txt.gz", ".out2.txt.0a1b2c3d", ".out.txt.0a1b2c3x", ".out.txt.a.0a1b2c3d")
    for name in (*names, ".out.txt.0a1b2c3d", ".out.txt.0a1b2c3e.old"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".out.txt.0a1b2c3f").mkdir()
    write(tmp_path / "out.txt")
    assert {path.name for path in tmp_path.iterdir()} == {*names, "out.txt"}


def test_what_another_process_is_writing_is_let_be(tmp_path):
    """Of a file the last one is there, whole; a folder takes longer, and the second one is refused."""
    with open_output(tmp_path / "out") as file:
        write_text(tmp_path / "out", "second")
        file.write(b"first")
    assert (tmp_path / "out").read_text() == "first"
    with new_folder(tmp_path / "folder") as folder:
        write_text(folder / "a", "first")
        with pytest.raises(WheelsError, match="folder is held by another process; wait until it ends"):
            filled(tmp_path / "folder")
    assert (tmp_path / "folder" / "a").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "out"]


@pytest.mark.parametrize("moment", ["before", "held"])
def test_a_file_that_another_writer_takes_for_a_kills_is_made_again(tmp_path, monkeypatch, moment):
    """Between making a file and locking it, another process may lock it first, and remove it."""
    tried = []

    def locks(place, held):
        tried.append(place)
        if len(tried) == 1:
            place.unlink()
            if moment == "held":
                raise BlockingIOError
        return lock_itself(place, held)

    monkeypatch.setattr("wheels.files.lock_itself", locks)
    write_text(tmp_path / "out", "whole")
    assert (tmp_path / "out").read_text() == "whole" and len(tried) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_many_processes_write_one_file(tmp_path):
    """None fails, and what is there is one of theirs, whole."""
    code = "import sys; from wheels.files import write_text as w\nfor _ in range(99): w(sys.argv[1], sys.argv[2] * 999)"
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "out", mark]) for mark in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert (tmp_path / "out").read_text() in [mark * 999 for mark in "abc"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("place", ["/dev/stdout", "log"])
def test_what_is_printed_into_is_not_replaced(tmp_path, place):
    """`--output /dev/stdout >> log`, and `--output log >> log`: what stood there stays, and both texts follow."""
    log = tmp_path / "log"
    log.write_text("before\n")
    code = f"print('printed'); from wheels.files import write_text; write_text({place!r}, 'written\\n'); print('after')"
    with log.open("a") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True, cwd=tmp_path)
    assert log.read_text() == "before\nprinted\nwritten\nafter\n"


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_folder(tmp_path / "link") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a").read_text() == "a"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WheelsError, match="it is no folder"), new_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 81856 vs 81744"),
        RuntimeError("basic_ios::clear: iostream error"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line_with_the_room_that_there_is(tmp_path, error):
    with (
        pytest.raises(
            WheelsError, match=r"cannot write .*no space left on the disk \(about 2.5 MB needed, .* MB free\)"
        ),
        room(tmp_path, 2_500_000),
    ):
        raise error
    with pytest.raises(RuntimeError, match="another"), room(tmp_path, 1):
        raise RuntimeError("another")
