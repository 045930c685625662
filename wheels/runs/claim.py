"""The folder of a run: whose it is, which run it holds, and that one process at a time writes there.

`run.json` says which, and is the first file that a run writes there:

    {"format": 1, "command": "train", "config": {...}, "identity": {...}, "finished": {"a.bin": "9f86..."}, "crc32": 7}

The result depends on `identity` alone. `config` can be given back as `--config`. A command may add keys of its own.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wheels.config.parsing import to_dict
from wheels.errors import WheelsError
from wheels.files import TEMPORARY, check_writable, lock_itself, read_object, write_json
from wheels.processes import is_first
from wheels.runs.checked import check, checked
from wheels.runs.kept import digest_of

log = logging.getLogger("wheels")

FORMAT = 1
"""Of `run.json` and of all that a run keeps beside it; what another version left is refused."""
NOTE = "run.json"
LOCK = ".lock"
LOGS = ("metrics.jsonl", "resolved.json")
"""What a run says of itself beside its result; only the run itself could write it again."""
ADVICE = "give another --output, or remove that folder"
LEFT_OVER = re.compile(rf"\..+{TEMPORARY}|\.saving\.\w{{8}}")
"""The names of temporary files and folders, which a kill leaves."""


class Held(WheelsError):
    """Another process has the folder."""


@dataclass
class Run:
    """A run in its folder, which this process holds."""

    folder: Path
    """The folder, its links resolved."""
    note: dict[str, Any]
    """The content of `run.json`."""
    resumed: bool
    """Whether this very run was begun here before."""

    def save(self) -> None:
        """Write `run.json`."""
        if is_first():
            write_json(self.folder / NOTE, checked(self.note))

    def finish(self, *files: Path) -> None:
        """Say that the run is done, and that these files are its result."""
        self.note["finished"] = {os.path.relpath(file, self.folder): digest_of(file) for file in files}
        self.save()

    @property
    def finished(self) -> bool:
        """Whether the run is done and its result is whole; a file that is gone or damaged is logged."""
        for name, digest in self.note.get("finished", {}).items():
            if digest_of(self.folder / name) != digest:
                log.warning("%s is gone or damaged; it is made again", self.folder / name)
                return False
        return "finished" in self.note


@contextmanager
def locked(file: Path, output: Path | str) -> Iterator[None]:
    """Hold the lock that is `file` while the block runs; it ends with the process, however that ends.

    What it is for is held too, where it is there and the system can: no door opens to who deletes the lock file. Of the
    processes of `torchrun` the first holds it for all.

    Raises:
        WheelsError: where another process has it: names `output`, what the lock is for.
    """
    if not is_first():
        yield
        return
    with ExitStack() as held:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(str(file), timeout=0, thread_local=False))
            if Path(output).exists():
                lock_itself(Path(output), held)
        except (Timeout, BlockingIOError):
            raise Held(f"{output} is held by another process; wait until it ends, or stop it") from None
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise WheelsError(f"cannot write {output}: {reason}; choose another place") from error
        yield


@contextmanager
def claim(
    folder: Path | str,
    command: str,
    config: Any,
    identity: Mapping[str, Any],
    *,
    kept: Callable[[], bool] | None = None,
    grows: bool = False,
    advice: str = ADVICE,
) -> Iterator[Run]:
    """Hold a folder for a run while the block runs, and yield the run.

    A start that fails leaves nothing: where the block ends with an error and no more than `run.json` was written, that
    goes too, and the folder with it if it was made here.

    Args:
        folder: new, empty, or of an earlier run.
        command: whose run it is, such as `train`.
        config: its settings.
        identity: everything that the result depends on.
        kept: whether another run of the command has left there what is worth keeping (default: anything).
        grows: whether runs share the folder that agree in what both depend on.
        advice: what to do, the end of an error.

    Raises:
        WheelsError: where the folder holds something else or another run, or another process holds it.
    """
    folder = Path(os.path.realpath(folder))
    check_free(folder)
    there = folder.is_dir()
    with locked(folder / LOCK, folder):
        if is_first():
            sweep(folder)
        try:
            found = find(folder, command, identity, kept=kept, grows=grows, advice=advice)
            note = found or {"format": FORMAT, "command": command, "identity": {}}
            note |= {"config": to_dict(config), "identity": note["identity"] | dict(identity)}
            run = Run(folder, note, found is not None)
            run.save()
            yield run
        except BaseException:
            if is_first() and not others_in(folder):
                with suppress(OSError):
                    for file in (NOTE, LOCK):
                        (folder / file).unlink(missing_ok=True)
                    if not there:
                        folder.rmdir()
            raise


def find(
    folder: Path,
    command: str,
    identity: Mapping[str, Any],
    *,
    kept: Callable[[], bool] | None = None,
    grows: bool = False,
    advice: str = ADVICE,
) -> dict[str, Any] | None:
    """Return what `run.json` says of this very run; None where there is none, or another that has left nothing.

    The arguments are those of `claim`.

    Raises:
        WheelsError: where the folder holds another run: names the first thing in which they differ.
    """
    if not (folder / NOTE).is_file():
        return None
    found = note_in(folder, "command", "identity", advice=advice)
    old, new = found["identity"], dict(identity)
    if not isinstance(old, dict):
        raise WheelsError(f"{folder / NOTE}: damaged at 'identity'; {advice}")
    try:
        if found["command"] != command:
            kept = None
            raise WheelsError(f"{folder} holds a run of the command {found['command']}, not of {command}; {advice}")
        if found.get("format") != FORMAT:
            raise WheelsError(f"{folder} holds a run of another version of wheels; {advice}")
        if grows:
            old, new = ({key: value for key, value in each.items() if key in old and key in new} for each in (old, new))
        check_same_run(f"{folder} holds a run", old, new, advice)
    except WheelsError:
        if others_in(folder) if kept is None else kept():
            raise
        return None
    return found


def note_in(folder: Path, *needed: str, advice: str = ADVICE) -> dict[str, Any]:
    """Return the content of `run.json` in a folder, which must have every key of `needed`.

    Raises:
        WheelsError: where there is none, or it is damaged.
    """
    found = read_object(folder / NOTE, *needed)
    return check(found, str(folder / NOTE), advice) if found.get("format") == FORMAT else found


def results_in(*folders: Path) -> list[Path]:
    """Return the files in folders that are a run's result: without its note, its lock, its logs and thresholds.

    Thresholds are found again by `wheels calibrate`, whenever one likes.
    """
    others = (NOTE, LOCK, *LOGS, "calibration.json")
    return [
        file for folder in folders for file in sorted(folder.iterdir()) if file.is_file() and file.name not in others
    ]


def sweep(folder: Path) -> None:
    """Remove what a kill left of files that were being written; runs within the folder sweep their own."""
    for place, folders, files in os.walk(folder):
        for name in filter(LEFT_OVER.fullmatch, [*folders, *files]):
            path = Path(place, name)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        folders[:] = [name for name in folders if not Path(place, name, NOTE).is_file()]


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something else than a run of ours.

    Raises:
        WheelsError: naming what is there; and where no folder can be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise WheelsError(f"cannot write {folder}: it is no folder; choose another place")
    check_writable(folder / NOTE)
    if not (folder / NOTE).is_file() and (others := others_in(folder)):
        raise WheelsError(f"{folder} holds something else ({others[0]}); give a new or an empty folder by --output")


def others_in(folder: Path) -> list[str]:
    """Return the names in a folder, without `run.json`, the lock, and what a kill left of writing the first."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if name not in (NOTE, LOCK) and not name.startswith(f".{NOTE}.")]


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
