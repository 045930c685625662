"""Sends what `wheels train` logs to TensorBoard, Weights & Biases or Trackio, by transformers' own integrations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks

from wheels.agents.config import TrainConfig
from wheels.agents.runlog import Metrics
from wheels.config.parsing import to_dict
from wheels.reports import TENSORBOARD_FOLDER


class Reports:
    """The services of one run. They begin with the first figures, so that only a process that logs opens them."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.state = TrainerState(is_world_process_zero=True)
        self.callbacks: list[Any] = []
        self.arguments = _arguments(config)

    def log(self, seed: int, figures: Mapping[str, Any]) -> None:
        """Send the numbers among `figures`, as `seed_0/loss`, `seed_0/prices/0.2` and so on, at `round` or `turn`."""
        if not self.config.report_to:
            return
        if not self.callbacks:
            self._open()
        self.state.global_step = int(figures.get("round", figures.get("turn", 0)))
        shown = {name: value for name, value in figures.items() if name not in ("round", "turn")}
        numbers = dict(_flat(f"seed_{seed}", shown))
        for callback in self.callbacks:
            callback.on_log(self.arguments, self.state, TrainerControl(), logs=numbers)

    def _open(self) -> None:
        """Open each service, and tell it the settings of the run."""
        output = Path(self.config.output)
        for kind in get_reporting_integration_callbacks(list(self.config.report_to)):
            callback = kind()
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(output / TENSORBOARD_FOLDER)
            callback.on_train_begin(self.arguments, self.state, TrainerControl())
            self.callbacks.append(callback)

    def close(self) -> None:
        """End each service that has begun."""
        for callback in self.callbacks:
            callback.on_train_end(self.arguments, self.state, TrainerControl())


@contextmanager
def reporting(config: TrainConfig) -> Iterator[Reports]:
    """Give the services of a run, which end with it, also where it is interrupted."""
    reports = Reports(config)
    try:
        yield reports
    finally:
        reports.close()


class ReportedMetrics(Metrics):
    """`metrics.jsonl` of one seed, each line of which goes to the services too."""

    def __init__(self, path: Path, seed: int, reports: Reports, *, enabled: bool = True) -> None:
        super().__init__(path, seed, enabled=enabled)
        self.reports = reports

    def write(self, figures: Mapping[str, Any]) -> None:
        """Append one line, and send its numbers."""
        super().write(figures)
        if self.enabled:
            self.reports.log(self.seed, figures)


def _arguments(config: TrainConfig) -> Any:
    """Return what the integrations read of a TrainingArguments, with our settings.

    One of transformers' own would set up the devices, which accelerate has done.
    """
    settings = to_dict(config)
    return SimpleNamespace(
        output_dir=config.output,
        run_name=Path(config.output).absolute().name,
        project="huggingface",
        to_dict=lambda: dict(settings),
        to_json_string=lambda: json.dumps(settings, indent=2),
        hub_private_repo=None,
        trackio_space_id=None,
        trackio_bucket_id=None,
        trackio_static_space_id=False,
        load_best_model_at_end=False,
    )


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield the numbers within nested mappings, each under the path of its names."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix}/{name}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield prefix, float(value)
