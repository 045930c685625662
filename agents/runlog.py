"""What a training run keeps on disk: checkpoints, metrics, and the settings that a resumed run must have."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from wheels.agents.config import TrainConfig
from wheels.config.parsing import to_dict
from wheels.endpoints.address import is_address
from wheels.errors import WheelsError
from wheels.files import write_bytes
from wheels.metrics import code_of_metric
from wheels.models.loading import first_line, model_digest
from wheels.runs import chunks, is_whole, keep_lines, last_whole, number_of, put_line, seal
from wheels.runs.tensors import STATE

MACHINE = (
    *("device", "teacher_device", "threads", "output", "report_to", "teacher_key"),
    *("batch_size", "max_tokens_in_flight"),
)
"""Settings that may change when a run is continued."""


def identity_of(config: TrainConfig, data_digest: str) -> dict[str, Any]:
    """Return everything that the result of a run depends on."""
    settings = to_dict(config, MACHINE) | {"student_digest": model_digest(config.student)}
    if is_address(config.teacher):
        del settings["teacher"]  # where it is says nothing of it; its name does
    else:
        settings["teacher_digest"] = model_digest(config.teacher)
    return settings | code_of_metric(config.metric) | {"data_digest": data_digest}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors while a kept state is read into one line.

    Raises:
        WheelsError: naming the file or folder.
    """
    try:
        yield
    except WheelsError:
        raise
    except Exception as error:  # what the disk, torch and a state of other keys or shapes raise
        raise WheelsError(
            f"{path} is of another version ({first_line(error)}); delete it to have it made again"
        ) from error


def shared_chunks(
    folder: Path,
    name: str,
    numbers: range,
    make: Callable[[int], Mapping[str, Any]],
    accelerator: Accelerator,
    title: str | None = None,
) -> list[dict[str, Any]]:
    """Return the parts of a long job; see `wheels.runs.chunks`. Each process makes every n-th, and all read all.

    Args:
        folder: Where they are kept.
        name: How the files' names begin.
        numbers: Of the parts.
        make: Makes one part, by its number.
        accelerator: The processes.
        title: Of the progress bar; None: there is none.
    """
    mine = numbers[accelerator.process_index :: accelerator.num_processes]
    of = partial(chunks, folder, None, make=make, form=STATE, name=f"{name}-")
    silent = title is None or not accelerator.is_main_process or None
    for _ in tqdm(of(mine), total=len(mine), desc=title, unit="chunk", file=sys.stderr, disable=silent):
        pass
    accelerator.wait_for_everyone()
    return list(of(numbers))


def chunks_are_whole(folder: Path, name: str, numbers: range) -> bool:
    """Whether all parts that `shared_chunks` keeps are there, as they were made."""
    return all(is_whole(folder / f"{name}-{number:05d}{STATE.suffix}", [None, number]) for number in numbers)


class Checkpoints:
    """The checkpoints of one seed: one file for each process; sealed when all are there."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = folder, accelerator

    def save(self, number: int, state: Mapping[str, Any]) -> None:
        """Write checkpoint `number`; the one before stays, for a disk that damages this one."""
        place = self.folder / f"checkpoint-{number}"
        write_bytes(place / self._name, STATE.write(dict(state)))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            seal(place, None)
            for old in sorted(self.folder.glob("checkpoint-*"), key=number_of)[:-2]:
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def latest(self) -> dict[str, Any] | None:
        """Return this process's state in the last whole checkpoint, or None.

        Raises:
            WheelsError: where it was made by another number of processes.
        """
        place = last_whole(self.folder)
        if place is None:
            return None
        made_by = len([*place.glob("process-*.pt")])
        if made_by != self.accelerator.num_processes:
            raise WheelsError(
                f"the unfinished run in {self.folder} was made by {made_by} processes, not "
                f"{self.accelerator.num_processes}; continue it with as many"
            )
        return dict(STATE.read(place / self._name))

    @property
    def _name(self) -> str:
        return f"process-{self.accelerator.process_index}.pt"


class Metrics:
    """`metrics.jsonl`: one object a line, with the seed that it belongs to."""

    def __init__(self, path: Path, seed: int, *, enabled: bool = True) -> None:
        self.path, self.seed, self.enabled = path, seed, enabled

    def write(self, figures: Mapping[str, Any]) -> None:
        """Append one line, in place of the one that a killed run wrote of the same."""
        if self.enabled:
            line = {"seed": self.seed, **figures}
            put_line(self.path, line, lambda old: _what_of(old) == _what_of(line))

    def keep_before(self, first: int) -> None:
        """Drop this seed's rounds from `first` on, and a line that was cut: they are going to be written again."""
        if self.enabled:
            keep_lines(self.path, lambda line: line["seed"] != self.seed or line.get("round", -1) < first, "seed")


def _what_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a line of metrics is about."""
    return (*(line.get(name) for name in ("seed", "turn", "round")), sorted(line))
