"""The models of `wheels annotate`, from a folder or an endpoint. Imports torch only for a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheels.annotation.assistant import Assistant, LikelihoodAssistant, PromptAssistant
from wheels.annotation.config import AnnotateConfig
from wheels.annotation.endpoint import Endpoint
from wheels.annotation.ledger import Ledger
from wheels.annotation.purchase import Local, Remote, Responder
from wheels.config.fields import fields_of
from wheels.data.rows import Row
from wheels.endpoints.address import is_address
from wheels.endpoints.retry import Patience
from wheels.errors import WheelsError
from wheels.files import write_jsonl

if TYPE_CHECKING:
    from wheels.annotation.local_model import LocalModel
    from wheels.annotation.pool import Student
    from wheels.distillation.config import PretrainConfig

RIGHT = 50.0
"""An answer with at least this sentence score, 0 to 100, is not a wrong one when grades are calibrated."""
OURS = (
    "output", "data", "student", "teacher", "tokenizer", "objective", "source", "target", "limit", "seed", "threads",
    "device", "prompt",
)  # fmt: skip
"""What a retraining is told by the run itself."""


def open_endpoints(config: AnnotateConfig, stack: ExitStack) -> dict[str, Endpoint]:
    """Return the teacher and the assistant that are given by address; nothing is sent.

    Raises:
        WheelsError: for an address, a key or a proxy that cannot be used.
    """
    endpoints = {}
    for role in ("teacher", "assistant"):
        if is_address(getattr(config, role)):
            endpoints[role] = Endpoint(
                getattr(config, role),
                getattr(config, f"{role}_model"),
                key_variable=getattr(config, f"{role}_key"),
                max_tokens=config.max_new_tokens,
                patience=Patience(config.attempts, config.timeout, config.backoff),
                workers=config.workers,
            )
            stack.callback(endpoints[role].close)
    return endpoints


def open_responder(config: AnnotateConfig, role: str, endpoints: Mapping[str, Endpoint]) -> Responder:
    """Return the teacher, or an assistant that is prompted.

    Raises:
        WheelsError: for a sequence-to-sequence model that is to follow a prompt, or one that cannot be loaded.
    """
    place = str(getattr(config, role))
    if role in endpoints:
        return Remote(endpoints[role], config.workers, skip_failed=config.skip_failed)
    prompted = role == "assistant" or bool(config.demonstrations)
    model = load_local(config, place, role, prompt="{source}" if prompted else config.prompt)
    if prompted and model.pair.is_seq2seq:
        what = "--grading prompt" if role == "assistant" else "--demonstrations"
        raise WheelsError(
            f"{role} {place!r} is a sequence-to-sequence model, which follows no prompt; leave {what} out"
        )
    return Local(model.labels, config.batch_size)


def load_local(config: AnnotateConfig, folder: str, role: str, prompt: str | None = None) -> LocalModel:
    """Load a model from a folder."""
    from wheels.annotation.local_model import LocalModel

    return LocalModel.load(
        folder,
        role=role,
        prompt=prompt or config.prompt,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        device=config.device,
    )


def assistant_loader(
    config: AnnotateConfig,
    validation: Sequence[Row],
    folder: Path,
    run_name: str,
    endpoints: Mapping[str, Endpoint],
    stack: ExitStack,
) -> Callable[[Student | None], Assistant]:
    """Return a factory of the assistant for a student; the models are loaded once."""
    if config.how_graded == "prompt":
        responder = open_responder(config, "assistant", endpoints)
        ledger = stack.enter_context(Ledger(folder / "grades.jsonl", budget=None, run=run_name, unit="grade"))
        asked = PromptAssistant(responder, config.grade_prompt, ledger)
        return lambda _: asked
    model = load_local(config, str(config.assistant), "assistant")

    def calibrated(student: Student | None) -> Assistant:
        assert student is not None, "the configuration holds likelihoods to a student"
        return calibrate(config, model, student, validation)

    return calibrated


def calibrate(
    config: AnnotateConfig, assistant: LocalModel, student: Student, validation: Sequence[Row]
) -> LikelihoodAssistant:
    """Return an assistant with thresholds at quantiles of likelihoods on labelled rows (`calibrate_confidence`).

    Right answers are the references. Wrong ones are a sample of the student's for each row that scores below
    `RIGHT` by the metric: the answers that the assistant has to tell from right ones.
    """
    from wheels.annotation.confidence import calibrate_confidence
    from wheels.metrics import sentence_scores

    sources, references = [row.source for row in validation], [row.target for row in validation]
    right = assistant.log_likelihoods(sources, references)
    sampled = student.samples(sources, 1, temperature=config.temperature, seed=config.seed)
    answers = [texts[0] for texts in sampled]
    scores = sentence_scores(config.metric, answers, references)
    missed = [place for place, score in enumerate(scores) if score < RIGHT and answers[place]]
    wrong = assistant.log_likelihoods([sources[place] for place in missed], [answers[place] for place in missed])
    cuts = calibrate_confidence(right, wrong, config.grade_quantiles)
    return LikelihoodAssistant(assistant.log_likelihoods, cuts, config.batch_size)


def retrain(
    config: AnnotateConfig, labelled: Sequence[Row], validation: Sequence[Row], rows: Sequence[Row], place: Path
) -> str:
    """Train the student on `rows`, and on the labelled rows when rehearsing, into `place/student`.

    A training that is done returns at once; without any row the student stays what it is.

    Raises:
        WheelsError: for settings that do not fit; see `wheels pretrain`.
    """
    from wheels.distillation.run import run

    train = [*labelled, *rows] if config.rehearse else list(rows)
    if not train:
        return str(config.student)
    splits = {"train": train, "validation": list(validation)}
    for split, lines in splits.items():
        if lines:
            write_jsonl(place / "data" / f"{split}.jsonl", map(asdict, lines))
    return str(run(retrain_config(config, place)))


def retrain_config(config: AnnotateConfig, place: Path) -> PretrainConfig:
    """Return the retraining configuration: the file of `--retrain`, with what the run itself sets.

    Raises:
        WheelsError: for a file that cannot be read, an unknown key, or one that the run itself sets.
    """
    from wheels.config.parsing import read_yaml
    from wheels.distillation.config import PretrainConfig

    settings: dict[str, Any] = {"metric": config.metric, "max_target_length": config.max_new_tokens}
    if config.retrain is not None:
        settings |= read_yaml(config.retrain, fields_of(PretrainConfig))
    for name in OURS:
        if name in settings:
            raise WheelsError(f"{config.retrain}: {name} is set by the run itself; take it out")
    ours: dict[str, Any] = {
        "output": str(place / "student"),
        "data": str(place / "data"),
        "student": config.student,
        "seed": config.seed,
        "device": config.device,
        "threads": config.threads,
        "prompt": config.prompt,
    }
    return PretrainConfig(**(settings | ours))
