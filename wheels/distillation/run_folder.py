"""The folder of a training run: its identity, whether it is finished, and where it resumes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wheels.distillation.config import PretrainConfig
from wheels.files import read_object, write_json
from wheels.runs import NOTE, begin_run, holds_run, last_whole


@dataclass(frozen=True)
class RunFolder:
    """A folder that becomes a `save_pretrained` folder when its run is done."""

    path: Path
    """The folder."""

    @property
    def checkpoints(self) -> Path:
        """The trainer's checkpoints; removed when the run is finished."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: each log and each evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def _finished(self) -> Path:
        return self.path / "finished.json"

    def begin(self, config: PretrainConfig, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Take the folder, which is claimed, for a run; return what `finish` was told if this very run is done already.

        Args:
            config: of the run; its `resume` `never` throws away what an earlier run left.
            identity: everything the result depends on, as values of JSON.

        Raises:
            WheelsError: where the folder holds another run.
        """
        kept = config.resume != "never" and (self._finished.exists() or self.last_checkpoint() is not None)
        advice = "give another --output, or --resume never to start over"
        if not holds_run(self.path, "pretrain", identity, kept=kept, advice=advice):
            self._clear()
            begin_run(self.path, "pretrain", config, identity)
        return read_object(self._finished) if self._finished.exists() else None

    def last_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint; one that was cut short or damaged is deleted."""
        return last_whole(self.checkpoints)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Say that the run is done, and drop its checkpoints."""
        write_json(self._finished, dict(facts))
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _clear(self) -> None:
        """Delete what an earlier run needs to go on."""
        self._finished.unlink(missing_ok=True)
        (self.path / NOTE).unlink(missing_ok=True)
        self.metrics.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def run_facts(folder: Path | str) -> dict[str, Any]:
    """Return the facts of the run that trained a model, such as its prompt; empty for any other model."""
    noted = Path(folder) / "finished.json"
    return read_object(noted) if noted.is_file() else {}
