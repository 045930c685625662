"""The place of a run: whose it is, which run it holds, and that one process at a time writes there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wheels.config import to_dict
from wheels.errors import WheelsError
from wheels.files import check_writable, read_object, write_json

NOTE = "run.json"
"""Says which run a folder holds; the first file that a run writes there."""
LOCK = ".lock"


@contextmanager
def locked(file: Path, output: Path | str) -> Iterator[None]:
    """Hold the lock that is `file` while the block runs; it ends with the process, however that ends.

    Of the processes of `torchrun` the first holds it for all.

    Raises:
        WheelsError: where another process has it: names `output`, what the lock is for.
    """
    if not _is_first():
        yield
        return
    lock = FileLock(str(file), timeout=0, thread_local=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise WheelsError(f"{output} is held by another process; wait until it ends, or stop it") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WheelsError(f"cannot write {output}: {reason}; choose another place") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def claimed(folder: Path | str, note: str = NOTE) -> Iterator[Path]:
    """Hold a folder for the outputs of one run while the block runs, and yield it.

    A start that fails leaves nothing: where the block ends with an error and no more than `note` was written, that goes
    too, and the folder with it if it was made here.

    Args:
        folder: new, empty, or of an earlier run.
        note: the file that says so.

    Raises:
        WheelsError: where the folder holds something else, or another process holds it.
    """
    folder = Path(os.path.realpath(folder))
    check_free(folder, note)
    there = folder.is_dir()
    with locked(folder / LOCK, folder):
        try:
            yield folder
        except BaseException:
            if _is_first() and not others_in(folder, note):
                with suppress(OSError):
                    for name in (note, LOCK):
                        (folder / name).unlink(missing_ok=True)
                    if not there:
                        folder.rmdir()
            raise


def _is_first() -> bool:
    """Whether this process is the only one, or the first of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def check_free(folder: Path, note: str = NOTE) -> None:
    """Refuse a folder that holds something else than a run of ours.

    Args:
        folder: where the outputs go.
        note: the file that tells a run's folder.

    Raises:
        WheelsError: naming an item found there; and where no folder can be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise WheelsError(f"cannot write {folder}: it is no folder; choose another place")
    check_writable(folder / note)
    if not (folder / note).is_file() and (others := others_in(folder, note)):
        raise WheelsError(f"{folder} holds something else ({others[0]}); give a new or an empty folder by --output")


def others_in(folder: Path, note: str = NOTE) -> list[str]:
    """Return the names in a folder, without its note, its lock, and what a kill left of writing them."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if name not in (note, LOCK, f"{note}.lock") and not name.startswith(f".{note}.")]


def holds_run(
    folder: Path,
    command: str,
    identity: Mapping[str, Any],
    *,
    kept: bool | None = None,
    grows: bool = False,
    name: str | None = None,
    advice: str = "give another --output, or remove that folder",
) -> bool:
    """Return whether a folder holds this very run; False where it holds none, or one that has left nothing.

    Args:
        folder: of the run.
        command: whose run it is to be, such as `train`.
        identity: everything that the result depends on.
        kept: whether the run there has left what is worth keeping (default: anything beside its note).
        grows: whether runs may share the folder that agree in what both depend on.
        name: what the error calls the place (default: the folder).
        advice: what to do, the end of an error.

    Raises:
        WheelsError: where it holds another run: names the first thing in which they differ.
    """
    note = folder / NOTE
    if not note.is_file():
        return False
    found = read_object(note, "command", "identity")
    if not isinstance(found["identity"], dict):
        raise WheelsError(f"{note}: damaged at 'identity'; {advice}")
    name = name or str(folder)
    if found["command"] != command:
        raise WheelsError(f"{name} holds a run of the command {found['command']}, not of {command}; {advice}")
    if not (others_in(folder) if kept is None else kept):
        return False
    old = {key: value for key, value in found["identity"].items() if key in identity or not grows}
    new = {key: value for key, value in identity.items() if key in old or not grows}
    check_same_run(f"{name} holds a run", old, new, advice)
    return True


def take_run(folder: Path, command: str, config: Any, identity: Mapping[str, Any], *, kept: bool | None = None) -> bool:
    """Return whether a folder holds this very run already; where it does not, it does from now on.

    The arguments are those of `holds_run` and `begin_run`.

    Raises:
        WheelsError: where it holds another run.
    """
    held = holds_run(folder, command, identity, kept=kept)
    if not held:
        begin_run(folder, command, config, identity)
    return held


def begin_run(folder: Path, command: str, config: Any, identity: Mapping[str, Any]) -> None:
    """Write down which run a folder holds; the file can be given back as `--config`."""
    write_json(folder / NOTE, {"command": command, "config": to_dict(config), "identity": dict(identity)})


def check_same_run(holds: str, old: Mapping[str, Any], new: Mapping[str, Any], advice: str) -> None:
    """Refuse to mix two runs in one place.

    A folder that was moved is still the same: where both name the digest of a thing (`data_digest` of `data`), it is
    compared, and not the path.

    Args:
        holds: the beginning of the error, such as `PATH holds a run`.
        old: what the run that is there depends on.
        new: what this one does.
        advice: what to do; the error's end.

    Raises:
        WheelsError: naming the first thing in which they differ.
    """
    for name in [*new, *old]:
        if f"{name}_digest" in old and f"{name}_digest" in new:
            continue
        if old.get(name) != new.get(name):
            raise WheelsError(f"{holds} with {name} {old.get(name)!r}, not {new.get(name)!r}; {advice}")
