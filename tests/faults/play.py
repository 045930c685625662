"""Play a command in a fork of this process, and do something to it at its N-th write.

Every write of a file, a rename, a removal and a new folder below the output counts as one (`sys.addaudithook`; what is
written by native code, such as safetensors, does not).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.commands import Played

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
LIMIT = 300
"""Seconds that a command may take."""

At = Callable[[int], None]
"""What is done at a write, given its number, from 1 on."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    """Its exit code; negative: the signal that killed it."""
    said: str
    """Standard output and error."""
    writes: int
    """Of files below the output."""

    @property
    def is_clean(self) -> bool:
        """Whether it ended well, or with one line that says why not."""
        return self.code in (0, 1, 2, 130, 143) and "Traceback" not in self.said

    @property
    def last(self) -> str:
        """The last line that was said, or that of an error."""
        lines = self.said.strip().splitlines()
        errors = [line for line in lines if re.match(r"error: |[\w.]*Error: ", line)]
        return ([*lines, *errors] or [""])[-1]


def start(played: Played, out: Path, at: At | None = None) -> tuple[int, Path]:
    """Start a command in a fork; return its process and where it prints to."""
    log = out.with_name(f"{out.name}.{time.monotonic_ns()}.log")
    child = os.fork()
    if child == 0:
        _run(played, out, log, at)
    return child, log


def end(child: int, log: Path) -> Outcome:
    """Wait for a command that was started."""
    _, status = os.waitpid(child, 0)
    said = log.read_text(errors="replace")
    counted = Path(f"{log}.writes")
    writes = int(counted.read_text()) if counted.exists() else 0
    for file in (log, counted):
        file.unlink(missing_ok=True)
    return Outcome(os.waitstatus_to_exitcode(status), said, writes)


def play(played: Played, out: Path, at: At | None = None) -> Outcome:
    """Run a command to its end."""
    return end(*start(played, out, at))


def fresh(played: Played, out: Path) -> None:
    """Empty the output, and put there what the command needs."""
    out.mkdir(exist_ok=True)
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    played.start(out)


def kill_at(number: int, sign: int = signal.SIGKILL, when: Path | None = None) -> At:
    """Return what sends a signal to the command itself at a write; the file `when` is of that time."""

    def at(count: int) -> None:
        if count == number:
            if when is not None:
                when.touch()
            os.kill(os.getpid(), sign)

    return at


def _run(played: Played, out: Path, log: Path, at: At | None) -> None:
    """Run a command in this process, which then ends."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
    os.environ["TQDM_DISABLE"] = "1"
    signal.alarm(LIMIT)
    count, code, below = 0, 1, f"{out}{os.sep}"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in EVENTS or not str(arguments[0]).startswith(below):
            return
        if event == "open" and not int(arguments[2] or 0) & WRITES:
            return
        count += 1
        if at is not None:
            at(count)

    try:
        from wheels.cli.main import main

        given = [word.replace("OUT", str(out)) for word in played.argv]
        sys.addaudithook(hook)
        code = main(given if "OUT" in " ".join(played.argv) else [*given, "--output", str(out)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path(f"{log}.writes").write_text(str(count))
        os._exit(code)


def content(out: Path, timed: str) -> dict[str, Any]:
    """Return what the output holds: each value of each JSON file, each line of JSON lines, digests of other files.

    Of what `timed` matches only the names of files.
    """
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir() or path.name.endswith(".lock"):
            continue
        name, raw = path.relative_to(out).as_posix(), path.read_bytes()
        found[name] = hashlib.sha256(raw).hexdigest()
        if re.match(timed, name):
            found[name] = None
            continue
        try:
            if path.suffix == ".json":
                found |= _flat(name, json.loads(raw))
                found[name] = None
            elif path.suffix == ".jsonl":
                lines = raw.splitlines()
                found[name] = len(lines)
                for number, line in enumerate(lines):
                    found |= _flat(f"{name}:{number}", json.loads(line))
        except ValueError:
            continue
    return {name: value for name, value in found.items() if value is None or not re.match(timed, name)}


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Return each value within a value of JSON, by its path."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: each for part, inner in pairs for key, each in _flat(f"{name}/{part}", inner).items()}
    return {name: value}


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Return the names of what differs."""
    return {name for name in one.keys() | other.keys() if one.get(name, "none") != other.get(name, "none")}


@dataclass(frozen=True)
class Whole:
    """What a command leaves that nothing happens to."""

    content: dict[str, Any]
    changing: set[str]
    """What differs from one run to the next: dates, seconds."""
    writes: int
    timed: str
    """As in `Played`."""

    @classmethod
    def of(cls, played: Played, out: Path) -> Whole:
        """Play a command twice."""
        found, done = [], Outcome(0, "", 0)
        for _ in range(2):
            fresh(played, out)
            done = play(played, out)
            if done.code:
                raise RuntimeError(f"{played.argv[:2]}: {done.said}")
            found.append(content(out, played.timed))
            time.sleep(1.1)  # another date, to the second
        return cls(found[0], differences(*found), done.writes, played.timed)

    def lacks(self, out: Path, but: str = "") -> list[str]:
        """Return what an output holds otherwise than it should; `but`: of one file it may."""
        found = differences(self.content, content(out, self.timed)) - self.changing
        return sorted(name for name in found if not but or not name.startswith(but))


def some(count: int, wanted: int) -> Iterator[int]:
    """Yield `wanted` numbers of 1 to `count`, evenly spread."""
    wanted = min(wanted, count)
    yield from sorted({1 + round(place * (count - 1) / max(1, wanted - 1)) for place in range(wanted)})


def mounted(place: Path, size: int) -> bool:
    """Mount a small disk; False where that is not allowed."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "wheels-faults", str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
