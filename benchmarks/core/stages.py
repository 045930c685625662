"""Stages that run one after the other in one folder, each of them once: a rerun goes on where the last run ended.

A run may grow in its folder: stages that are new are done, those that were done stay so, and a comparison of all of
them is made again. What would have to be done again otherwise is refused.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wheels import __version__
from wheels.benchmarks.core.recipe import Recipe
from wheels.config.parsing import write_resolved
from wheels.data.tasks import SPLITS, load_task
from wheels.errors import WheelsError
from wheels.files import write_text
from wheels.json_text import json_digest
from wheels.output.notices import in_words
from wheels.runs import ADVICE, Run, claim, digest_of, note_in, results_in

log = logging.getLogger("wheels")

STAGES = "stages"
"""In the note of a run: of each stage its key, what it comes after, its seconds, its digests, whether it is done."""


@dataclass(frozen=True)
class Stage:
    """One step of a run."""

    name: str
    """One word; its section in the recipe."""
    title: str
    """What it does, for the reader who waits."""
    results: tuple[Path, ...]
    """Files that it leaves, and folders of runs with theirs; where one is gone or damaged it runs again."""
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


def run_stages(folder: Path, config: Any, stages: Sequence[Stage], inputs: Mapping[str, Any]) -> dict[str, float]:
    """Run what is not done yet, and return the seconds that each stage took when it ran.

    A header before each stage; what a stage prints is kept in `FOLDER/printed`, and shown where it is for the reader.

    `inputs` are the command, and what all stages depend on.

    Raises:
        WheelsError: where the folder belongs to something else, and whatever a stage raises.
    """
    identity = dict(inputs)
    with claim(folder, identity.pop("command"), config, identity) as run:
        _begin(run, stages)
        left = [stage.name for stage in stages if not _is_done(run, stage)]
        log.info("%d of %d stages to do: %s", len(left), len(stages), ", ".join(left) or "none")
        for number, stage in enumerate(stages):
            header = f"[{number + 1}/{len(stages)}] {stage.title}"
            if stage.name not in left and run.note[STAGES][stage.name]["done"]:
                print(f"{header}: done before, in {in_words(run.note[STAGES][stage.name]['seconds'])}", flush=True)
            else:
                print(header, flush=True)
                _forget(run, {stage.name})
                _run(run, stage)
                print(f"      done in {in_words(run.note[STAGES][stage.name]['seconds'])}", flush=True)
            if stage.shown:
                print(f"\n{_printed(run, stage).read_text(encoding='utf-8').strip()}\n", flush=True)
        return _seconds(run.note)


def seconds_of(folder: Path) -> dict[str, float]:
    """Return the seconds of each stage that is done in a folder."""
    return _seconds(note_in(folder, STAGES))


def _seconds(note: Mapping[str, Any]) -> dict[str, float]:
    return {name: one["seconds"] for name, one in note[STAGES].items() if one["done"]}


def _begin(run: Run, stages: Sequence[Stage]) -> None:
    """Enter the stages into the record of a run.

    Raises:
        WheelsError: where one was begun with other settings, and is not cheap.
    """
    record, after = run.note.setdefault(STAGES, {}), parents(stages)
    changed = set()
    for stage in stages:
        new = {"key": stage_key(stage), "after": after[stage.name]}
        old = record.setdefault(stage.name, new | {"seconds": 0.0, "done": False})
        if {**old, **new} != old:
            if not stage.again:
                raise WheelsError(
                    f"{run.folder} holds a run with another recipe (it differs in {stage.name!r}); {ADVICE}"
                )
            changed.add(stage.name)
            old |= new
    _forget(run, changed)


def _forget(run: Run, names: set[str]) -> None:
    """Note that stages are to be done again, and all that depend on them."""
    record, gone = run.note[STAGES], set(names)
    while more := {name for name, one in record.items() if name not in gone and gone & {*one["after"]}}:
        gone |= more
    for name in gone:
        if record[name]["done"]:
            record[name] |= {"seconds": 0.0, "done": False}
    run.save()


def _is_done(run: Run, stage: Stage) -> bool:
    """Whether a stage is done and what it left is still there and whole."""
    one = run.note[STAGES][stage.name]
    return one["done"] and all(digest_of(run.folder / name) == digest for name, digest in one["digests"].items())


def _printed(run: Run, stage: Stage) -> Path:
    """Return where the output of a stage is kept."""
    return run.folder / "printed" / f"{stage.name}.txt"


def _run(run: Run, stage: Stage) -> None:
    """Run a stage, and note its seconds, those of earlier tries among them."""
    start, printed, one = time.perf_counter(), io.StringIO(), run.note[STAGES][stage.name]
    try:
        with contextlib.redirect_stdout(printed):
            stage.run()
        write_text(_printed(run, stage), printed.getvalue())
        left = [file for place in stage.results for file in (results_in(place) if place.is_dir() else [place])]
        files = [*left, _printed(run, stage)]
        one |= {"done": True, "digests": {os.path.relpath(file, run.folder): digest_of(file) for file in files}}
    finally:
        one["seconds"] = round(one["seconds"] + time.perf_counter() - start, 1)
        run.save()


def stage_key(stage: Stage) -> str:
    """Return a digest of a stage's own settings."""
    return json_digest([stage.name, dict(stage.settings)])


def parents(stages: Sequence[Stage]) -> dict[str, list[str]]:
    """Return the stages that each depends on: those that it names, or all before it."""
    names = [stage.name for stage in stages]
    return {
        stage.name: names[:number] if stage.after is None else list(stage.after) for number, stage in enumerate(stages)
    }


@dataclass(frozen=True)
class Plan:
    """What is made of a task by a recipe, and where."""

    recipe: Recipe
    data: str
    output: Path
    threads: int | None

    def run(self, command: str, config: Any, stages: Sequence[Stage], **inputs: Any) -> None:
        """Run the stages of a command; the task must have all splits, and `inputs` are what else all stages depend on.

        Raises:
            WheelsError: for a split that is missing; as `run_stages`.
        """
        task = load_task(self.data)
        task.check_splits(SPLITS)  # what is scored at the end is looked for first
        identity = {"command": command, "wheels": __version__, "data_digest": task.digest, **inputs}
        self.end(config, run_stages(self.output, config, stages, identity), data_digest=task.digest)

    def end(self, config: Any, seconds: Mapping[str, float], **facts: Any) -> None:
        """Write what made the results, and say where they are and how long it took."""
        write_resolved(config, self.output, {"recipe": self.recipe.sections, "seconds": seconds, **facts})
        print(f"everything is in {self.output}; the stages took {in_words(sum(seconds.values()))} in all")
