"""The folder of a training run: what run it holds, whether it is done, and where it can go on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wheels.errors import WheelsError
from wheels.files import read_json, write_json


@dataclass(frozen=True)
class RunFolder:
    """A folder that becomes a `save_pretrained` folder when its run is done."""

    path: Path
    """The folder."""

    @property
    def checkpoints(self) -> Path:
        """Where the trainer keeps its checkpoints; gone when the run is done."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: each log and each evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def _run(self) -> Path:
        return self.path / "run.json"

    @property
    def _finished(self) -> Path:
        return self.path / "finished.json"

    def begin(self, identity: Mapping[str, Any], *, resume: str) -> Mapping[str, Any] | None:
        """Take the folder for a run; return what `finish` was told if this very run is done already.

        Args:
            identity: everything the result depends on, as values of JSON.
            resume: `auto` goes on with this run; `never` throws away what an earlier run left.

        Raises:
            WheelsError: where the folder holds another run, or a model that no run has made.
        """
        if not self._run.exists() and (self.path / "config.json").exists():
            raise WheelsError(f"{self.path} holds a model that no run has written; give another --output")
        if resume == "never":
            self._clear()
        if self._run.exists() and (self._finished.exists() or self.last_checkpoint() is not None):
            check_same_run(
                f"{self.path} holds a run", read_json(self._run), identity,
                "give another --output, or --resume never to start anew",
            )  # fmt: skip
        write_json(self._run, dict(identity))
        return read_json(self._finished) if self._finished.exists() else None

    def last_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint; one that was cut short is deleted."""
        found = [path for path in self.checkpoints.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
        for path in sorted(found, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
            if _is_whole(path):
                return path
            shutil.rmtree(path, ignore_errors=True)
        return None

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Say that the run is done, and drop its checkpoints."""
        write_json(self._finished, dict(facts))
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _clear(self) -> None:
        """Delete what an earlier run needs to go on."""
        self._finished.unlink(missing_ok=True)
        self._run.unlink(missing_ok=True)
        self.metrics.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)


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


def run_facts(folder: Path | str) -> dict[str, Any]:
    """Return what the run that trained a model noted, its prompt among it; nothing for a model that no run has made."""
    noted = Path(folder) / "finished.json"
    return dict(read_json(noted)) if noted.is_file() else {}


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has the file that the trainer writes last."""
    try:
        return "global_step" in read_json(checkpoint / "trainer_state.json")
    except WheelsError:
        return False
