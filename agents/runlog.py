"""What a training run keeps on disk: checkpoints, metrics, and the settings that a resumed run must have."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from wheels.agents.config import TrainConfig
from wheels.config import to_dict
from wheels.errors import WheelsError
from wheels.files import read_object, write_bytes, write_json, write_text
from wheels.json_text import parse_object
from wheels.models.loading import first_line, model_digest
from wheels.runs import take_run

MACHINE = ("device", "threads", "checkpoint_every", "output", "report_to")
"""Settings that may change when a run is continued."""


def is_to_do(output: Path, config: TrainConfig, data_digest: str) -> bool:
    """Return whether there is work left: False where this very run is finished in `output`.

    Raises:
        WheelsError: where `output` holds a run of other settings, models or data: names the first that differs.
    """
    identity = to_dict(config, MACHINE)
    identity |= {f"{role}_digest": model_digest(identity[role]) for role in ("student", "teacher")}
    identity["data_digest"] = data_digest
    finished = (output / "resolved.json").is_file() and (output / "deferral" / "config.json").is_file()
    return not (take_run(output, "train", config, identity) and finished)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, atomically."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_bytes(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote: tensors and plain values only, no code.

    Raises:
        WheelsError: where the file cannot be read, or holds something else.
    """
    with reading(path):
        state = torch.load(path, weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds {type(state).__name__}")
    return state


@contextmanager
def reading(path: Path, advice: str = "delete it to have it made again") -> Iterator[None]:
    """Turn errors while a kept state is read into one line.

    Raises:
        WheelsError: naming the file or folder.
    """
    try:
        yield
    except WheelsError:
        raise
    except Exception as error:  # what the disk, torch and a state of other keys or shapes raise
        raise WheelsError(f"{path} is damaged ({first_line(error)}); {advice}") from error


def kept_chunks(
    folder: Path, name: str, count: int, make: Callable[[int], Mapping[str, Any]], title: str, accelerator: Accelerator
) -> list[dict[str, Any]]:
    """Return `count` chunks of work, each written to `folder` when done, so that a resumed run repeats none.

    Under several processes each makes every n-th chunk, and all read all.

    Args:
        folder: Where they are kept, as `name-0.pt` and so on.
        name: Of the files.
        count: How many there are.
        make: Makes one chunk, by its number: what `save_state` writes.
        title: Of the progress bar.
        accelerator: The processes.
    """
    paths = [folder / f"{name}-{number}.pt" for number in range(count)]
    mine = range(accelerator.process_index, count, accelerator.num_processes)
    for number in tqdm(
        mine, desc=title, unit="chunk", file=sys.stderr, disable=not accelerator.is_main_process or None
    ):
        if not paths[number].is_file():
            save_state(paths[number], make(number))
    accelerator.wait_for_everyone()
    return [load_state(path) for path in paths]


class Checkpoints:
    """The last complete checkpoint of one seed: a file for each process, then a marker that all are there."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = folder, accelerator

    def save(self, number: int, state: Mapping[str, Any]) -> None:
        """Write checkpoint `number`; the one before goes when it is complete."""
        save_state(self._file(number), state)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            write_json(self.folder / "latest.json", {"number": number, "processes": self.accelerator.num_processes})
            for old in self.folder.glob("checkpoint-*"):
                if old.name != f"checkpoint-{number}":
                    shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def latest(self) -> dict[str, Any] | None:
        """Return this process's state in the last complete checkpoint, or None.

        Raises:
            WheelsError: where it was made by another number of processes.
        """
        note = self.folder / "latest.json"
        if not note.is_file():
            return None
        content = read_object(note, "processes", "number")
        if content["processes"] != self.accelerator.num_processes:
            raise WheelsError(
                f"the unfinished run in {self.folder} was made by {content['processes']} processes, not "
                f"{self.accelerator.num_processes}; continue it with as many"
            )
        return load_state(self._file(content["number"]))

    def _file(self, number: int) -> Path:
        return self.folder / f"checkpoint-{number}" / f"process-{self.accelerator.process_index}.pt"


class Metrics:
    """`metrics.jsonl`: one object a line, with the seed that it belongs to."""

    def __init__(self, path: Path, seed: int, *, enabled: bool = True) -> None:
        self.path, self.seed, self.enabled = path, seed, enabled

    def write(self, figures: Mapping[str, Any]) -> None:
        """Append one line."""
        if not self.enabled:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seed": self.seed, **figures}) + "\n")

    def keep_before(self, first: int) -> None:
        """Drop this seed's rounds from `first` on, and a truncated line: they will be written again."""
        if not self.enabled or not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                figures = parse_object(line, str(self.path), "seed", finite=False)
            except WheelsError:
                continue
            again = figures["seed"] == self.seed and figures.get("round", -1) >= first
            if not again:
                kept.append(line + "\n")
        write_text(self.path, "".join(kept))
