"""Stages that run one after the other in one folder, each of them once: a rerun goes on where the last run ended.

A run may grow in its folder: stages that are new are done, those that were done stay so, and a comparison of all of
them is made again. What would have to be done again otherwise is refused.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wheels.errors import WheelsError
from wheels.files import read_object, write_json, write_text
from wheels.json_text import json_digest
from wheels.notices import in_words
from wheels.runs import claimed

log = logging.getLogger("wheels")

LEDGER = "stages.json"
"""The file that says which stages a folder holds."""


@dataclass(frozen=True)
class Stage:
    """One step of a run."""

    name: str
    """One word; its section in the recipe."""
    title: str
    """What it does, for the reader who waits."""
    result: Path
    """What it leaves; a stage whose result is gone runs again."""
    settings: Mapping[str, Any]
    """What its result depends on, beside other stages."""
    run: Callable[[], object]
    """Does the work; called again after an interruption, it continues."""
    shown: bool = False
    """Whether what it prints is for the reader, now and in every rerun; it is kept in a file in any case."""
    after: tuple[str, ...] | None = None
    """The stages that its result depends on; None: all before it."""
    again: bool = False
    """Whether it is cheap, and is done again where these or its settings are no longer the same; else it is refused."""


@dataclass(frozen=True)
class Ledger:
    """`FOLDER/stages.json`: which stages were begun, of which settings, and which are done, in how many seconds."""

    folder: Path
    """The folder of the run."""
    keys: dict[str, str]
    """A digest for each stage of its own settings and of what all stages depend on."""
    after: dict[str, list[str]]
    """The stages that each depends on."""
    done: dict[str, float]
    """Seconds of each stage that is done."""
    spent: dict[str, float]
    """Seconds that went into a stage before it was interrupted."""

    @classmethod
    def open(cls, folder: Path, stages: Sequence[Stage], inputs: Mapping[str, Any]) -> Ledger:
        """Take a folder, which is claimed, for a run, or find the run of these settings there.

        Args:
            folder: new, empty, or of an earlier run.
            stages: all of them, in their order.
            inputs: what all of them depend on, as values of JSON.

        Raises:
            WheelsError: where the folder holds a run of other settings.
        """
        keys, after = {stage.name: stage_key(stage, inputs) for stage in stages}, parents(stages)
        path = folder / LEDGER
        if path.is_file():
            held = read_object(path, "done")
            known, before = held.get("keys", {}), held.get("after", {})
            others = [name for name in keys if (known.get(name), before.get(name)) != (keys[name], after[name])]
            if known and not set(known) & set(keys):
                raise WheelsError(
                    f"{folder} holds a run of another command; give another --output, or remove that folder"
                )
            for stage in stages:
                if stage.name in others and stage.name in known and not stage.again:
                    raise WheelsError(
                        f"{folder} holds a run with another recipe, pair or version (it differs in {stage.name!r}); "
                        "give another --output, or remove that folder"
                    )
            ledger = cls(folder, keys, after, dict(held["done"]), dict(held.get("spent", {})))
            ledger.forget(others)
            return ledger
        ledger = cls(folder, keys, after, {}, {})
        ledger.save()
        return ledger

    def text(self, stage: Stage) -> Path:
        """Return where the output of a stage is kept."""
        return self.folder / "printed" / f"{stage.name}.txt"

    def has(self, stage: Stage) -> bool:
        """Whether a stage is done and what it left is still there."""
        return stage.name in self.done and stage.result.exists() and self.text(stage).is_file()

    def finish(self, stage: Stage, seconds: float, printed: str) -> None:
        """Note that a stage is done."""
        write_text(self.text(stage), printed)
        self.done[stage.name] = round(seconds + self.spent.pop(stage.name, 0.0), 1)
        self.save()

    def pause(self, stage: Stage, seconds: float) -> None:
        """Note the time that went into a stage that is not done."""
        self.spent[stage.name] = self.spent.get(stage.name, 0.0) + seconds
        self.save()

    def forget(self, names: Iterable[str]) -> None:
        """Note that stages are to be done again, and all that depend on them."""
        gone = set(names)
        for name, after in self.after.items():  # in their order: what a stage depends on stands before it
            if name in gone or gone & set(after):
                gone.add(name)
                self.done.pop(name, None)
        self.save()

    def save(self) -> None:
        """Write the file."""
        write_json(
            self.folder / LEDGER,
            {"keys": self.keys, "after": self.after, "done": self.done, "spent": self.spent},
        )


def stage_key(stage: Stage, inputs: Mapping[str, Any]) -> str:
    """Return a digest of the inputs and of a stage's own settings."""
    return json_digest([dict(inputs), stage.name, dict(stage.settings)])


def parents(stages: Sequence[Stage]) -> dict[str, list[str]]:
    """Return the stages that each depends on: those that it names, or all before it."""
    names = [stage.name for stage in stages]
    return {
        stage.name: names[:number] if stage.after is None else list(stage.after) for number, stage in enumerate(stages)
    }


def run_stages(folder: Path, stages: Sequence[Stage], inputs: Mapping[str, Any]) -> dict[str, float]:
    """Run what is not done yet, and return the seconds that each stage took when it ran.

    A header before each stage; what a stage prints is kept in `FOLDER/printed`, and shown where it is for the reader.

    Raises:
        WheelsError: where the folder belongs to something else, and whatever a stage raises.
    """
    with claimed(folder, LEDGER):
        return _run_all(Ledger.open(folder, stages, inputs), stages)


def _run_all(ledger: Ledger, stages: Sequence[Stage]) -> dict[str, float]:
    """Run what is not done yet, in order."""
    left = [stage.name for stage in stages if not ledger.has(stage)]
    log.info("%d of %d stages to do: %s", len(left), len(stages), ", ".join(left) or "none")
    for number, stage in enumerate(stages):
        header = f"[{number + 1}/{len(stages)}] {stage.title}"
        if ledger.has(stage):
            print(f"{header}: done before, in {in_words(ledger.done[stage.name])}", flush=True)
        else:
            print(header, flush=True)
            ledger.forget([stage.name])
            ledger.finish(stage, *_run(stage, ledger))
            print(f"      done in {in_words(ledger.done[stage.name])}", flush=True)
        if stage.shown:
            print(f"\n{ledger.text(stage).read_text(encoding='utf-8').strip()}\n", flush=True)
    return ledger.done


def _run(stage: Stage, ledger: Ledger) -> tuple[float, str]:
    """Run a stage; return its seconds, and what it printed."""
    start, printed = time.perf_counter(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            stage.run()
    except BaseException:
        ledger.pause(stage, time.perf_counter() - start)
        raise
    return time.perf_counter() - start, printed.getvalue()
