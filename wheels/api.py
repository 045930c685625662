"""The front door: a student, its teacher and its rules as one object, and what makes one.

Training imports as much again as writing does, so its functions import it when they are called.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from wheels.agents.config import TrainConfig
from wheels.config.fields import loading_of, weights_of
from wheels.data.rows import Row
from wheels.data.tasks import digest
from wheels.decoding.across.pair import load_pair
from wheels.decoding.commands.calibrate import chosen_rules, code_of, points_of
from wheels.decoding.methods.calibrated import known_rules, rule_of
from wheels.decoding.methods.choices import PACED
from wheels.decoding.methods.method import Method, deferral
from wheels.decoding.methods.rule import AnyRule, Rule
from wheels.decoding.params import DecodeParams
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.sampling import GREEDY, Sampling
from wheels.decoding.streaming import decode
from wheels.decoding.streaming import stream as stream_traces
from wheels.decoding.trace import Trace
from wheels.distillation.config import PretrainConfig
from wheels.errors import WheelsError, check_budget, check_kind
from wheels.models.artefact import Artefact
from wheels.models.devices import Devices
from wheels.models.pair import Pair
from wheels.policy.calibration import Calibration

BUDGET = 0.2
"""The teacher budget where none is given, as in `wheels generate`."""
BUDGETS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
"""The budgets that are calibrated where none are given, as in `wheels calibrate`."""


class Model:
    """A student that knows when to call its teacher: the pair, its rules, and their calibrated thresholds.

    Args:
        pair: Models in memory (`Pair.of`) or read from folders (`Pair.load`), without trained heads and thresholds.
            `Model.load` reads the folder that `wheels train` wrote, with both.
    """

    def __init__(self, pair: Pair) -> None:
        check_kind("pair", pair, Pair, "a Pair; Model.load reads a folder")
        self._artefact = Artefact(pair, {}, Calibration())

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        teacher: str | Path | RemoteTeacher | None = None,
        span: str = "tokens:1",
        device: str = "cpu",
        teacher_device: Devices | None = None,
        dtype: str = "auto",
        teacher_quantization: str | None = None,
        student_weights: str = "float32",
        teacher_weights: str = "float32",
    ) -> Model:
        """Read the folder of a trained model.

        Args:
            folder: What `wheels train` wrote.
            teacher: Folder or Hub name of the teacher, if not the one that the folder names; or a `RemoteTeacher`, a
                model behind an address.
            span: How much a call buys of a teacher in a folder that has a tokenizer of its own.
            device: Where both models run, such as `cuda`.
            teacher_device: Where the teacher runs, such as `cuda:1`; `auto`: in parts on all devices, in main memory
                and on disk; or the device of each part by its name. None: `device`.
            dtype: `float32`, `bfloat16`, `float16`, or `auto`: that of the thresholds, else what each is stored in.
            teacher_quantization: `int8` or `int4`, to round the teacher's weights when it is loaded.
            student_weights: What decoding makes of a float32 student's weights on a CPU: `int8` and `bfloat16` are
                faster and change some texts; `auto` is the fastest here.
            teacher_weights: The same of the teacher's.

        Raises:
            WheelsError: where something is missing or damaged.
        """
        check_kind("folder", folder, (str, Path), "a folder; models in memory go into Model(Pair.of(...))")
        place: dict[str, Any] = {
            "device": device,
            "teacher_device": teacher_device,
            "dtype": dtype,
            "teacher_quantization": teacher_quantization,
            "student_weights": student_weights,
            "teacher_weights": teacher_weights,
        }
        if isinstance(teacher, RemoteTeacher):
            place["load_pair"], teacher = partial(RemotePair.load, remote=teacher), teacher.model
        else:
            place["load_pair"] = partial(load_pair, span=span)
        return _model(Artefact.load(folder, teacher=str(teacher) if teacher else None, **place))

    @classmethod
    def embedded(
        cls,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        student_weights: str = "float32",
        teacher_weights: str = "float32",
    ) -> Model:
        """Return the small German-English pair that comes with the package; the arguments are those of `load`."""
        weights: dict[str, Any] = {"student_weights": student_weights, "teacher_weights": teacher_weights}
        return _model(Artefact.load(device=device, dtype=dtype, **weights))

    def __repr__(self) -> str:
        return f"Model({type(self.pair.student).__name__}, rules: {', '.join(self.rules)})"

    @property
    def pair(self) -> Pair:
        """The student, the teacher and their tokenizer."""
        return self._artefact.pair

    @property
    def calibration(self) -> Calibration:
        """The thresholds of the rules by budget, and what they were measured on."""
        return self._artefact.calibration

    @property
    def rules(self) -> tuple[str, ...]:
        """The names that `rule` takes: all rules of the package but those whose head was not trained."""
        return known_rules(self._artefact)

    def rule(self, rule: str | Rule = "learned", *, seed: int = 0) -> Rule:
        """Return a rule with this model's head and thresholds.

        `deferral(model.rule("learned"), budget=0.2)` takes the threshold that was calibrated to 0.2, and refuses a
        budget without one.

        Args:
            rule: A name; `FILE.py:NAME` or `package.module:NAME`; or a `Rule` of your own.
            seed: Which trained head.

        Raises:
            WheelsError: for an unknown rule, or one whose head was not trained.
        """
        return rule_of(self._artefact, rule, seed)

    def generate(
        self,
        texts: Iterable[str],
        *,
        teacher_budget: float | Sequence[float] | None = None,
        mode: str = "average",
        rule: str | AnyRule | None = None,
        method: Method | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        batch_size: int = 64,
        on_error: str = "stop",
        progress: Callable[[int], object] | None = None,
    ) -> list[Trace]:
        """Write an output for each text, and return the traces in the texts' order.

        Args:
            texts: To translate, summarize or continue.
            teacher_budget: The share of the tokens that the teacher may write, in [0, 1]: for all texts, or one for
                each. None: 0.2, or no budget for a rule with a threshold of its own (`rule.at(...)`).
            mode: Who keeps the budget: `average` the calibrated threshold, over many texts; `online` a threshold that
                moves with what was spent; `strict` the engine, at every prefix of every text; `dollars` one that
                spreads the `budget_dollars` of a remote teacher over the texts, in place of a share.
            rule: Says when to call: a name, `FILE.py:NAME`, or a rule. None: `learned`.
            method: Another way of decoding, such as `wheels.speculative(5)`; it has its own rule and budget.
            max_new_tokens: The most tokens of an output.
            sampling: How tokens are drawn; the default takes the most probable.
            seed: Of all draws; and which trained head the rule reads.
            batch_size: Rows of a forward pass at most.
            on_error: What a text that cannot be read does: `stop`, or `skip`: its trace says why it is empty.
            progress: Called with the number of outputs that have just become ready.

        Raises:
            WheelsError: for arguments that do not go together, and a budget that nothing would keep.
        """
        method = self._method(method, rule, teacher_budget, mode, seed)
        params = DecodeParams(max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)
        return decode(self.pair, texts, method, params, batch_size=batch_size, on_error=on_error, progress=progress)

    def stream(
        self,
        texts: Iterable[str],
        *,
        teacher_budget: float | Sequence[float] | None = None,
        mode: str = "average",
        rule: str | AnyRule | None = None,
        method: Method | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        batch_size: int = 64,
        on_error: str = "stop",
    ) -> Iterator[tuple[int, Trace]]:
        """Write an output for each text, and yield its index and trace as soon as it has ended.

        The arguments are those of `generate`.
        """
        method = self._method(method, rule, teacher_budget, mode, seed)
        params = DecodeParams(max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)
        return stream_traces(self.pair, texts, method, params, batch_size=batch_size, on_error=on_error)

    def _method(
        self,
        method: Method | None,
        rule: str | AnyRule | None,
        budget: float | Sequence[float] | None,
        mode: str,
        seed: int,
    ) -> Method:
        """Return the method that was given, or deferral by the rule."""
        if method is not None:
            if rule is not None or budget is not None or mode != "average":
                raise WheelsError(
                    f"method {method.name!r} has its own rule and budget; leave rule, teacher_budget, mode"
                )
            return method
        rule = "learned" if rule is None else rule
        if isinstance(rule, str) or (isinstance(rule, Rule) and not rule.is_set):
            rule = self.rule(rule, seed=seed)
            if budget is None and mode != PACED:
                budget = BUDGET
        return deferral(rule, budget, mode)


def _model(artefact: Artefact) -> Model:
    """Return the model of what was read."""
    model = Model(artefact.pair)
    model._artefact = artefact
    return model


def calibrate(
    model: Model,
    rows: Sequence[Row | str],
    *,
    budgets: Sequence[float] = BUDGETS,
    rules: Sequence[str | Rule] | None = None,
    seeds: int = 1,
    max_new_tokens: int = 128,
    batch_size: int = 64,
) -> Model:
    """Return the model with thresholds that are measured on `rows`, in place of those that it had.

    Each budget is decoded some times: its threshold is the one whose measured teacher use is the budget.

    Args:
        model: What is calibrated; it stays as it is.
        rows: Texts, or rows whose source is read. Never those that are scored afterwards.
        budgets: Shares of the tokens, in (0, 1).
        rules: Names, `FILE.py:NAME`, or rules of your own. None: all that the model has.
        seeds: How many trained heads of a rule are calibrated.
        max_new_tokens: As in `generate`.
        batch_size: As in `generate`.

    Raises:
        WheelsError: for a rule that the model has not, or no rows.
    """
    read = [Row(row, "") if isinstance(row, str) else row for row in rows]
    if not read:
        raise WheelsError("there are no rows to calibrate on; give some hundred texts that are not scored")
    artefact, grid = model._artefact, sorted({check_budget(budget, "budgets") for budget in budgets} - {0.0, 1.0})
    chosen = list(chosen_rules(artefact, known_rules(artefact) if rules is None else rules, seeds))
    points = points_of(
        model.pair,
        [row.source for row in read],
        chosen,
        grid,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    settings = {"max_new_tokens": max_new_tokens, "dtype": str(model.pair.dtype).removeprefix("torch.")}
    settings |= weights_of(model.pair)
    calibration = Calibration(
        list(points),
        data_digest=digest({"": read}),
        rows=len(read),
        date=datetime.date.today().isoformat(),
        model_digest=artefact.digest,
        config=settings | code_of(rule for rule, _ in chosen),
    )
    return _model(replace(artefact, calibration=calibration))


def train(config: TrainConfig) -> Model:
    """Train a student to call its teacher, as `wheels train` does, and return the model in `config.output`."""
    from wheels.agents.run import run

    run(config)
    teacher: str | RemoteTeacher = config.teacher
    if config.teacher_model is not None:
        teacher = RemoteTeacher(config.teacher, config.teacher_model, key_variable=config.teacher_key)
    return Model.load(config.output, teacher=teacher, **loading_of(config))


def pretrain(config: PretrainConfig) -> Path:
    """Train a student on references or on a teacher, as `wheels pretrain` does, and return its folder."""
    from wheels.distillation.run import run

    return run(config)
