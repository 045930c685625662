"""Atomic files: every output is written to a temporary file in the same folder and then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from wheels.errors import WheelsError
from wheels.json_text import parse_json, parse_object

TEMPORARY = r"\.[0-9a-f]{8}(\.old)?"
"""How the name ends of what is being written, and of what a kill leaves of it; it begins with a dot."""


@contextmanager
def open_output(path: Path | str) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part. A link stays, and its target is written. A file that is
    there keeps its mode and, where that is possible, its owner; a new one has the mode that the umask leaves. A FIFO, a
    character device such as /dev/null, and what this process prints into are not replaced: they are written into.

    Raises:
        WheelsError: where the place cannot be written.
    """
    check_writable(path)
    place = _target(Path(path))
    old = place.stat() if place.exists() else None
    try:
        if old is not None and (printed := _printed_into(old)) is not None:
            with os.fdopen(os.dup(printed), "wb") as file:
                yield file
        elif old is not None and not stat.S_ISREG(old.st_mode):
            with place.open("wb") as file:
                yield file
        else:
            with _beside(place, old) as file:
                yield file
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


@contextmanager
def _beside(place: Path, old: os.stat_result | None) -> Iterator[BinaryIO]:
    """Yield a temporary file that is renamed to `place` when written; `old` is the file that it replaces."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    with ExitStack() as held:
        temporary, number = _fresh(place, held)
        try:
            with os.fdopen(number, "wb") as file:
                if old is not None:
                    with suppress(PermissionError):  # only the superuser gives files away
                        os.fchown(file.fileno(), old.st_uid, old.st_gid)
                    os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _fresh(place: Path, held: ExitStack) -> tuple[Path, int]:
    """Make a temporary file beside `place`, locked until `held` ends; return its path and an open descriptor.

    Before it is locked, another process that writes the same place may take it for a kill's and remove it: then again.
    """
    while True:
        temporary = place.with_name(f".{place.name}.{os.urandom(4).hex()}")
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with suppress(BlockingIOError, FileNotFoundError):
                lock_itself(temporary, held)
                if os.fstat(number).st_nlink:
                    return temporary, number
        except BaseException:
            os.close(number)
            temporary.unlink(missing_ok=True)
            raise
        os.close(number)


def lock_itself(place: Path, held: ExitStack) -> bool:
    """Lock a file or a folder until `held` ends; False where the system cannot: Windows, and some network disks.

    Raises:
        BlockingIOError: where another process has it.
    """
    try:
        import fcntl
    except ImportError:
        return False
    handle = os.open(place, os.O_RDONLY)
    held.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _sweep(place: Path) -> bool:
    """Remove what kills left of writing a file or a folder; return whether another process is writing it now."""
    is_held, name = False, re.compile(re.escape(f".{place.name}") + TEMPORARY)
    try:
        left = [path for path in place.parent.iterdir() if name.fullmatch(path.name)]
    except PermissionError:  # a folder may be written to that may not be read
        left = []
    for path in left:
        try:
            with ExitStack() as held:
                if lock_itself(path, held):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        except BlockingIOError:
            is_held = True
        except OSError:  # gone meanwhile, or another user's
            continue
    return is_held


def check_writable(path: Path | str) -> None:
    """Refuse a path that cannot be written, before any work is done.

    Raises:
        WheelsError: for a folder, a file or a folder that may not be written to, and what is no file.
    """
    place = _target(Path(path))
    if place.is_dir():
        raise _unwritable(path, "it is a folder", "give the name of a file")
    if place.exists():
        if not (place.is_file() or place.is_fifo() or place.is_char_device()):
            raise _unwritable(path, "it is no file")
        if not os.access(place, os.W_OK):
            raise _unwritable(path, "it may not be written to")
        if not place.is_file():
            return
    folder = place.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise _unwritable(path, f"{folder} {'may not be written to' if folder.is_dir() else 'is not a folder'}")


def _target(path: Path) -> Path:
    """Return the target of a link; anything but a plain file keeps its name, by which it is opened."""
    try:
        return path if path.exists() and not path.is_file() else path.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself; RuntimeError before Python 3.13
        raise _unwritable(path, getattr(error, "strerror", None) or "its links lead in a circle") from error


def _printed_into(old: os.stat_result) -> int | None:
    """Return the descriptor of standard output or error if it writes into that very file."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), old):
                stream.flush()
                return number
    return None


def _unwritable(path: Path | str, reason: str, advice: str = "choose another place") -> WheelsError:
    """Return the error for a path that cannot be written."""
    return WheelsError(f"cannot write {path}: {reason}; {advice}")


FULL = ("No space left on device", "Disk quota exceeded", "failed writing file", "unexpected pos", "iostream error")
"""What libraries say, in errors of their own, where a disk is full; torch says the last three."""


@contextmanager
def room(folder: Path, needed: int) -> Iterator[None]:
    """Turn what a library raises where a disk is full into one line.

    Args:
        folder: that is written to.
        needed: bytes that what is written takes, about.

    Raises:
        WheelsError: naming the folder, and the room that there is.
    """
    try:
        yield
    except Exception as error:
        if not any(sign in str(error) for sign in FULL):
            raise
        free = shutil.disk_usage(folder).free
        sizes = f"about {needed / 1e6:.3g} MB needed, {free / 1e6:.3g} MB free"
        raise _unwritable(folder, f"no space left on the disk ({sizes})", "make room, and run it again") from error


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write `content` to `path`; see `open_output`."""
    with open_output(path) as file:
        file.write(content)
    return Path(path)


def write_text(path: Path | str, text: str) -> Path:
    """Write `text` to `path` as UTF-8, atomically."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> Path:
    """Write `value` to `path` as indented JSON, atomically."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path | str, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write objects, one a line; see `write_text`."""
    return write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_json(path: Path | str, *, finite: bool = True) -> Any:
    """Return the JSON value in `path`; see `wheels.json_text.parse_json`.

    Raises:
        WheelsError: where the file is missing, or is not JSON: names the file and the line.
    """
    return parse_json(_content(path), str(path), finite=finite, lines=True)


def read_object(path: Path | str, *needed: str, finite: bool = True) -> dict[str, Any]:
    """Return the JSON object in `path`, which must have every key of `needed`.

    Raises:
        WheelsError: as `read_json`; and for another kind of value, or a key that is missing.
    """
    return parse_object(_content(path), str(path), *needed, finite=finite, lines=True)


def _content(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WheelsError(f"cannot read {path}: {error.strerror or error}") from error


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `path` when the block ends without an error.

    An older folder of that name is replaced only then, and the new one has its mode. A link stays: its target is
    replaced.

    Raises:
        WheelsError: where the place cannot be written, is no folder, or another process is writing it.
    """
    place = _target(Path(path)).resolve()
    if place.exists() and not place.is_dir():
        raise _unwritable(path, "it is no folder")
    temporary = place.with_name(f".{place.name}.{os.urandom(4).hex()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if _sweep(place):
            raise WheelsError(f"{path} is held by another process; wait until it ends, or stop it")
        temporary.mkdir()
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    held = ExitStack()
    try:
        lock_itself(temporary, held)
        yield temporary
        if place.exists():
            temporary.chmod(stat.S_IMODE(place.stat().st_mode))
            old = temporary.with_name(f"{temporary.name}.old")
            os.replace(place, old)
            os.replace(temporary, place)
            shutil.rmtree(old)
        else:
            os.replace(temporary, place)
    finally:
        held.close()
        shutil.rmtree(temporary, ignore_errors=True)
