"""Play faults on every command that keeps a run, and print which end as they should.

    python -m tests.faults.run [--commands pretrain train] [--faults kill damage] [--each 6]

A fault is survived where the same command, run again, ends with the same files as a run that nothing happened to, or
where one line says what is wrong. A traceback, another result, or a file that is left over is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults.commands import Played, inputs, played
from tests.faults.play import Outcome, Whole, end, fresh, kill_at, mounted, play, some, start

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "gone": lambda raw: None,
    "garbage": lambda raw: random.Random(0).randbytes(len(raw)),
    "other": lambda raw: b'{"a": [1, null]}\n',
    "flipped": lambda raw: (
        raw[: (half := len(raw) // 2)] + bytes(byte ^ 1 for byte in raw[half:][:1]) + raw[half + 1 :]
    ),
}
SIGTERM_SECONDS = 20
LOGS = ("metrics.jsonl", "resolved.json")


class Most(NamedTuple):
    """How much is played of each command."""

    places: int
    """Of a kill and SIGTERM, drawn at random, and of a full disk, evenly spread."""
    damages: int | None
    """Each in the middle and at the end, evenly spread over files and kinds; None: all."""


Found = Iterator[tuple[str, str]]
"""The name of each thing that was done, and what is wrong afterwards; empty: nothing."""


def judged(given: Played, whole: Whole, out: Path, *, again: bool = True, refused: bool = False, but: str = "") -> str:
    """Run a command again, and say what is wrong: nothing where it ends as a whole run, or is refused where it may."""
    done = play(given, out) if again else Outcome(0, "", 0)
    if not done.is_clean:
        return f"traceback: {done.last}"
    if done.code:
        return "" if refused else f"does not go on: {done.last}"
    lacks = whole.lacks(out, but)
    return f"differs: {lacks[:4]}" if lacks else ""


def two(given: Played, whole: Whole, out: Path, most: Most) -> Found:
    """Start a second process in the middle of the first one; and with the lock file removed before."""
    for title in ("second process", "second process, lock file removed"):
        fresh(given, out)
        go = out.with_name("go")
        go.unlink(missing_ok=True)

        def wait(count: int, go: Path = go) -> None:
            if count == whole.writes // 2:
                go.with_name("waits").touch()
                while not go.exists():
                    time.sleep(0.02)

        child = start(given, out, wait)
        while not go.with_name("waits").exists():
            time.sleep(0.02)
        go.with_name("waits").unlink()
        if "removed" in title:
            for lock in out.rglob("*.lock"):
                lock.unlink()
        second = play(given, out)
        go.touch()
        first = end(*child)
        refused = second.code == 2 and "is held by another process" in second.last
        wrong = "" if refused or (given.at_once and second.code == 0) else f"second: {second.last}"
        if first.code:
            wrong += f" first: {first.last}"
        yield title, wrong or judged(given, whole, out, again=False)


def kill(given: Played, whole: Whole, out: Path, most: Most) -> Found:
    """Kill it at a write, and run it again."""
    yield from _stopped(given, whole, out, most, signal.SIGKILL, -signal.SIGKILL)


def term(given: Played, whole: Whole, out: Path, most: Most) -> Found:
    """As a scheduler ends a job: it is to end by itself, with exit code 143."""
    yield from _stopped(given, whole, out, most, signal.SIGTERM, 143)


def _stopped(given: Played, whole: Whole, out: Path, most: Most, sign: int, code: int) -> Found:
    drawn = random.Random(f"{sign} {whole.writes}").sample(range(1, whole.writes + 1), min(most.places, whole.writes))
    for number in sorted(drawn):
        fresh(given, out)
        signalled = out.with_name("signalled")
        done = play(given, out, kill_at(number, sign, signalled))
        seconds = time.time() - signalled.stat().st_mtime
        wrong = "" if done.code == code else f"exit code {done.code}: {done.last}"
        if sign == signal.SIGTERM and seconds > SIGTERM_SECONDS:
            wrong += f" after {seconds:.0f} s"
        # A step at which training was asked to stop is logged too.
        but = "metrics.jsonl" if given.checkpoints and sign == signal.SIGTERM else ""
        yield f"at write {number} of {whole.writes}", wrong or judged(given, whole, out, but=but)


def damage(given: Played, whole: Whole, out: Path, most: Most) -> Found:
    """Damage a file of a run that was killed at three quarters."""
    fresh(given, out)
    play(given, out, kill_at(whole.writes * 3 // 4))
    yield from _damaged(given, whole, out, most.damages, done=False)


def finished(given: Played, whole: Whole, out: Path, most: Most) -> Found:
    """Damage a file of a run that is finished."""
    fresh(given, out)
    play(given, out)
    yield from _damaged(given, whole, out, most.damages, done=True)


def _damaged(given: Played, whole: Whole, out: Path, damages: int | None, *, done: bool) -> Found:
    kept = out.with_name("kept")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(out, kept, symlinks=True)
    fresh(given, out)
    inputs, every = {path.relative_to(out) for path in out.rglob("*")}, list[tuple[Path, str]]()
    for path in sorted(path for path in kept.rglob("*") if path.is_file()):
        name = path.relative_to(kept)
        if name.name.endswith(".lock") or name in inputs:
            continue
        raw = path.read_bytes()
        every += [(name, title) for title, change in DAMAGES.items() if change(raw) != raw]
    for number in some(len(every), damages or len(every)):
        name, title = every[number - 1]
        new = DAMAGES[title]((kept / name).read_bytes())
        fresh(given, out)
        shutil.copytree(kept, out, symlinks=True, dirs_exist_ok=True)
        (out / name).unlink() if new is None else (out / name).write_bytes(new)
        # Once all is done, what led to the result is not needed, and a log cannot be written again.
        needless = re.match(given.scrap, str(name)) or (done and not re.match(given.result, str(name)))
        but = str(name) if needless or name.name in LOGS else ""
        yield f"{name} {title}", judged(given, whole, out, refused=True, but=but)
    shutil.rmtree(kept)


def full(given: Played, whole: Whole, out: Path, most: Most) -> Found:
    """Let the disk be full at several sizes; then make room, and run it again."""
    if not mounted(out, 1 << 30):
        yield "no disk can be mounted here", ""
        return
    try:

        def measure(count: int) -> None:
            at = os.statvfs(out)
            used.write_text(str(max(int(used.read_text()), (at.f_blocks - at.f_bfree) * at.f_frsize)))

        used = out.with_name("used")
        used.write_text("0")
        fresh(given, out)
        base = _used(out)
        play(given, out, measure)
        largest = int(used.read_text())
        for place in range(1, most.places + 1):
            subprocess.run(["mount", "-o", "remount,size=1g", str(out)], check=True)
            fresh(given, out)
            size = base + (largest - base) * place // (most.places + 1)
            subprocess.run(["mount", "-o", f"remount,size={size}", str(out)], check=True)
            done = play(given, out)
            subprocess.run(["mount", "-o", "remount,size=1g", str(out)], check=True)
            if done.code == 0:
                wrong = judged(given, whole, out, again=False)
            elif not done.is_clean:
                wrong = f"traceback: {done.last}"
            elif not any(word in done.last for word in ("No space", "make room")):
                wrong = f"says {done.last}"
            else:
                wrong = ""
            yield f"{size >> 10} of {largest >> 10} KiB", wrong or judged(given, whole, out)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=False)


def _used(out: Path) -> int:
    at = os.statvfs(out)
    return (at.f_blocks - at.f_bfree) * at.f_frsize


FAULTS = {"two": two, "kill": kill, "term": term, "damage": damage, "finished": finished, "full": full}


def main() -> None:
    """Play what is asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", help="default: all")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=[*FAULTS])
    parser.add_argument("--each", type=int, default=6, help="places of a kill and of a full disk, for each command")
    parser.add_argument("--damages", type=int, help="damages underway, and as many when finished; default: all")
    parser.add_argument("--log", default=os.devnull, help="a file of JSON lines, one for each fault")
    given = parser.parse_args()
    import wheels.agents.run
    import wheels.annotation.run
    import wheels.benchmarks.annotation.run
    import wheels.benchmarks.ceiling.run
    import wheels.benchmarks.curve.run
    import wheels.benchmarks.demo.run
    import wheels.benchmarks.distillation.run
    import wheels.benchmarks.frontier.advise
    import wheels.benchmarks.frontier.run
    import wheels.benchmarks.passes.run
    import wheels.benchmarks.rationales.run
    import wheels.benchmarks.speed.run
    import wheels.benchmarks.study.run
    import wheels.decoding.compatibility.check
    import wheels.distillation.run
    import wheels.rationales.run  # noqa: F401  (what every fork would import again)
    from wheels.decoding.commands import bulk

    bulk.EVERY = 0.0  # seconds: each text is a write of its own

    counts: dict[tuple[str, str], Counter[bool]] = {}
    with tempfile.TemporaryDirectory() as folder, open(given.log, "a") as log:
        place = Path(folder).resolve()
        inputs(place / "inputs")
        every, out = played(place / "inputs"), place / "work" / "out"
        most = Most(given.each, given.damages)
        out.parent.mkdir()
        for name in given.commands or every:
            whole = Whole.of(every[name], out)
            for fault in given.faults:
                count = counts[name, fault] = Counter()
                for title, wrong in FAULTS[fault](every[name], whole, out, most):
                    count[not wrong] += 1
                    if wrong:
                        print(f"{name}, {fault}, {title}: {wrong}", flush=True)
                    log.write(json.dumps({"command": name, "fault": fault, "what": title, "wrong": wrong}) + "\n")
                    log.flush()
    print(f"{'':16}" + "".join(f"{fault:>12}" for fault in given.faults))
    for name in dict.fromkeys(name for name, _ in counts):
        shown = (counts[name, fault] for fault in given.faults)
        print(f"{name:16}" + "".join(f"{f'{one[True]}/{one.total()}':>12}" for one in shown))
    sys.exit(any(count[False] for count in counts.values()))


if __name__ == "__main__":
    main()
