"""Trainer callbacks: a progress bar, `metrics.jsonl`, and a stop at numbers that are not finite."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME

from wheels.distillation.arguments import blaming
from wheels.distillation.run_folder import CHECKPOINTS, METRICS_LOG
from wheels.files import room
from wheels.finite import check_finite, check_weights
from wheels.models.loading import quiet_loading
from wheels.output.notices import Pace
from wheels.reports import TENSORBOARD_FOLDER
from wheels.runs import append_line, is_whole, keep_lines, last_whole, seal
from wheels.stop import deferred_stop

log = logging.getLogger("wheels")


class Finite(TrainerCallback):
    """Stops a run whose gradients, weights or scores are not finite, before they reach a checkpoint."""

    begun = False
    """Whether a step has begun."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note it."""
        self.begun = True

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the gradients. In float16 they may be infinite: the scaler skips such a step."""
        if not args.fp16:
            gradients = [weight.grad for weight in kwargs["model"].parameters() if weight.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
            check_finite(f"step {state.global_step + 1}", {"gradient's norm": norm}, advice(args))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check the weights before they are scored or saved."""
        if control.should_save or control.should_evaluate:
            check_weights(kwargs["model"], f"step {state.global_step}", advice(args))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check losses, norms and scores."""
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, float)}
        check_finite(f"step {state.global_step}", numbers, advice(args))


def advice(args: TrainingArguments) -> str:
    """Return the advice for a run that is no longer finite."""
    return f"lower learning_rate (it is {args.learning_rate:g}), or look for rows that are out of the ordinary"


# Shown beside the bar, in this order.
SHOWN = ("loss", "learning_rate")


class Progress(ProgressCallback):
    """A progress bar on standard error with the latest loss and scores."""

    def __init__(self) -> None:
        """Start with nothing to show."""
        super().__init__()
        self._shown: dict[str, str] = {}
        self._pace, self._began = Pace(0, "steps"), 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the time; the first steps are measured."""
        self._pace.parts = self._pace.parts or state.max_steps - state.global_step
        self._began = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar, and say once how long the other steps take."""
        super().on_step_end(args, state, control, **kwargs)
        if state.is_world_process_zero:
            self._pace.add(time.perf_counter() - self._began)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the numbers of `logs` next to the bar."""
        for name, value in (logs or {}).items():
            if name in SHOWN or name.startswith("eval_"):
                self._shown[name.removeprefix("eval_")] = f"{value:.3g}"
        if self.training_bar is not None:
            self.training_bar.set_postfix(self._shown)


class Metrics(TrainerCallback):
    """Appends each log and evaluation to `metrics.jsonl`, with its step and epoch, and seals each checkpoint.

    A run that continues from a checkpoint first drops what was logged after that checkpoint: it will come again.
    """

    def __init__(self, path: Path | str) -> None:
        """Log to `path`."""
        self.path = Path(path)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the lines of steps that are yet to come, and one that was cut short; find the best checkpoint.

        It was noted with its path, and the folder may have been moved.
        """
        if state.best_global_step:
            state.best_model_checkpoint = str(Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}")
        if state.is_world_process_zero:
            keep_lines(self.path, lambda line: line["step"] <= state.global_step, "step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log at every checkpoint, so that the loss between two logs never spans an interruption."""
        if control.should_save:
            control.should_log = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seal the checkpoint that was written, once every process has written its part."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", None)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append a line; the trainer's final summary is skipped."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        append_line(self.path, {"step": state.global_step, "epoch": round(state.epoch or 0.0, 6), **logs})


class Stop(TrainerCallback):
    """Saves after the step in which one of the processes was asked to stop, and ends there."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        """`asked`: whether this process was."""
        self.asked = asked

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for the save and the end."""
        asked = self.asked()
        if PartialState().num_processes > 1:
            count = torch.tensor(int(asked), device=args.device)
            torch.distributed.all_reduce(count)
            asked = bool(count.item())
        if asked:
            control.should_save = control.should_training_stop = True


def train_to_end(trainer: Trainer, folder: Path, options: str | None) -> TrainerState:
    """Train from the last checkpoint, or from the start, with our bar and metrics; return the trainer's last state.

    Args:
        trainer: of transformers or TRL.
        folder: of the run.
        options: the file of further options, for errors.

    Raises:
        WheelsError: for options that the trainer cannot begin with, and where a number of the run is none.
    """
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    watch = Finite()
    trainer.add_callback(watch)
    trainer.add_callback(Progress())
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:  # else it goes with checkpoints
            callback.logging_dir = str(folder / TENSORBOARD_FOLDER)
    checkpoint = _last_good(folder / CHECKPOINTS)
    if checkpoint is not None and _ended(trainer, checkpoint):
        return trainer.state
    # A run that left a checkpoint had begun with these options.
    blamed = f"cannot go on from {checkpoint}; delete it to go on from an earlier one" if checkpoint else options
    model = cast(torch.nn.Module, trainer.model)
    needed = 3 * sum(weight.numel() * weight.element_size() for weight in model.parameters())  # with Adam's moments
    with deferred_stop() as asked, quiet_loading(), blaming(blamed, lambda: watch.begun), room(folder, needed):
        trainer.add_callback(Stop(asked))
        trainer.add_callback(Metrics(folder / METRICS_LOG))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.accelerator.wait_for_everyone()
    return trainer.state


def _state_of(checkpoint: Path) -> TrainerState:
    return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))


def _best_of(checkpoint: Path) -> Path:
    """Return the checkpoint whose weights were the best so far; where none is known, this one."""
    step = _state_of(checkpoint).best_global_step
    return checkpoint.with_name(f"checkpoint-{step}") if step else checkpoint


def _last_good(folder: Path) -> Path | None:
    """Return the last checkpoint that is whole, and whose best one is; what comes after it is deleted."""
    while (checkpoint := last_whole(folder)) is not None and not is_whole(_best_of(checkpoint), None):
        log.warning("%s is gone; the run goes on before it", _best_of(checkpoint))
        shutil.rmtree(checkpoint, ignore_errors=True)
    return checkpoint


def _ended(trainer: Trainer, checkpoint: Path) -> bool:
    """Whether a checkpoint is that of the last step; the trainer then has its state, and the weights to end with.

    The library would take one more step from there, where that is not the end of an epoch.
    """
    state = _state_of(checkpoint)
    if state.global_step < state.max_steps:
        return False
    trainer.state = state
    trainer._load_from_checkpoint(str(_best_of(checkpoint) if trainer.args.load_best_model_at_end else checkpoint))
    return True
