"""`wheels annotate`: an unlabelled file in, a labelled training file out, under a budget of annotations."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wheels.annotation import models
from wheels.annotation.config import DEMONSTRATION, AnnotateConfig
from wheels.annotation.endpoint import Endpoint
from wheels.annotation.ledger import Account, Ledger, read_account
from wheels.annotation.pool import Annotation, AnnotationContext, annotate_pool, as_record
from wheels.annotation.summary import as_text, preview, summarise
from wheels.config.fields import fields_of
from wheels.config.parsing import to_dict, write_resolved
from wheels.config.paths import settings_digests
from wheels.data.rows import Row, load_rows
from wheels.data.tasks import digest, load_task
from wheels.endpoints.address import is_address
from wheels.errors import WheelsError
from wheels.files import read_object, write_json, write_jsonl
from wheels.json_text import json_digest
from wheels.output.visible import visible
from wheels.runs import Run, check_free, claim, find, whole_lines

log = logging.getLogger("wheels")

# What a run may go on with other values of: it changes no answer, or, as the budget, only how many there are.
INCIDENTAL = (
    "output", "annotation_budget", "teacher_key", "assistant_key", "workers", "timeout", "attempts", "backoff",
    "skip_failed", "dry_run", "device", "threads",
)  # fmt: skip
PARTS = ("grades.jsonl", "warm-up", "main")
"""What a run keeps in its folder beside its ledger, in order to go on."""


@dataclass(frozen=True)
class Inputs:
    """The rows of a run."""

    pool: list[str]
    """The unlabelled sources, each once."""
    labelled: list[Row]
    """Labelled rows to show to the teacher and to retrain on."""
    validation: list[Row]
    """Labelled rows to calibrate on."""
    digest: str
    """Of all of them."""


def run(config: AnnotateConfig) -> None:
    """Run `wheels annotate`. An interrupted run resumes; a finished one prints its summary.

    A finished run continues when it is given a higher budget.

    Raises:
        WheelsError: for inputs or models that do not fit, and for requests that got no answer.
    """
    inputs = read_inputs(config)
    folder = Path(config.output)
    with ExitStack() as stack:
        endpoints = models.open_endpoints(config, stack)  # a bad address or key is refused before anything is written
        identity = _identity(config, inputs)  # and so is a mistake in the file of --retrain
        kept, advice = partial(_bought, folder), "give another --output"
        if config.dry_run:
            check_free(folder)
            find(folder, "annotate", identity, kept=kept, advice=advice)
            account, prompt = _account(folder / "ledger.jsonl"), partial(teacher_prompt, config, inputs.labelled)
            print(visible(preview(config, inputs.pool, prompt, account)))
            return
        held = stack.enter_context(claim(folder, "annotate", config, identity, kept=kept, advice=advice))
        if held.finished:
            done = read_object(folder / "summary.json", "budget", "unusable", "stages")
            if done["budget"] == config.annotation_budget:
                log.info("%s is done already", folder)
                print(visible(as_text(done)))
                return
        if not held.resumed:
            _clear(folder)
        if config.threads:
            import torch

            torch.set_num_threads(config.threads)
        _check_ledger(held, folder / "ledger.jsonl")
        log.info("choosing among %d rows: up to %d annotations", len(inputs.pool), config.annotation_budget)
        ledger = stack.enter_context(
            Ledger(folder / "ledger.jsonl", budget=config.annotation_budget, run=_run_name(identity))
        )
        held.note["paying"] = True
        held.save()
        context = open_context(config, inputs, folder, ledger.account.run, endpoints, stack)
        annotations = annotate_pool(config, context, folder, ledger)
        _finish(config, inputs, folder, annotations, ledger)
        held.finish(*(folder / name for name in ("annotated.jsonl", "rejected.jsonl", "summary.json")))


def _finish(
    config: AnnotateConfig, inputs: Inputs, folder: Path, annotations: Sequence[Annotation], ledger: Ledger
) -> None:
    """Write the labelled file, the rejected rows and the summary; print the summary."""
    write_jsonl(folder / "annotated.jsonl", (as_record(one) for one in annotations if one.accepted))
    write_jsonl(folder / "rejected.jsonl", (as_record(one) for one in annotations if not one.accepted))
    write_resolved(config, folder, {"data_digest": inputs.digest})
    grades = _account(folder / "grades.jsonl")
    summary = summarise(annotations, len(inputs.pool), ledger.account, len(grades.refused) if grades else 0)
    write_json(folder / "summary.json", summary)
    print(visible(as_text(summary)))


def read_inputs(config: AnnotateConfig) -> Inputs:
    """Read the unlabelled file and the labelled folder.

    Raises:
        WheelsError: for rows that are bad, a labelled folder without the split that is needed, or too few rows.
    """
    rows = load_rows(
        config.input,
        source=config.source,
        target=config.target,
        require_target=False,
        limit=config.limit,
        bad_rows=config.bad_rows,
    )
    pool = list(dict.fromkeys(row.source for row in rows))
    if len(pool) < len(rows):
        log.info(
            "%s: %d rows repeat an earlier source; each source is annotated once",
            config.input,
            len(rows) - len(pool),
        )
    labelled: list[Row] = []
    validation: list[Row] = []
    if config.data is not None:
        task = load_task(
            config.data, source=config.source, target=config.target, limit=config.limit, bad_rows=config.bad_rows
        )
        labelled, validation = task.splits.get("train", []), task.splits.get("validation", [])
        learns = config.demonstrations or (config.retrains and config.rehearse)
        for wanted, split in ((learns, "train"), (config.calibrates, "validation")):
            if wanted:
                task.rows(split)
    if len(labelled) < config.demonstrations:
        raise WheelsError(
            f"demonstrations must be at most the {len(labelled)} labelled rows of {config.data}/train, "
            f"got {config.demonstrations}"
        )
    every = {"pool": [Row(source, "") for source in pool], "train": labelled, "validation": validation}
    return Inputs(pool, labelled, validation, digest(every))


def _identity(config: AnnotateConfig, inputs: Inputs) -> Mapping[str, Any]:
    """Return everything that the result depends on: settings, rows and the content of the models."""
    identity = to_dict(config, INCIDENTAL)
    for role in ("student", "teacher", "assistant"):
        name = identity[role]
        if name is not None and not is_address(name):
            from wheels.models.loading import model_digest
            from wheels.models.places import check_place

            check_place(name, role)
            identity[f"{role}_digest"] = model_digest(name)
    identity |= settings_digests(fields_of(AnnotateConfig), config)
    if config.retrains:
        settings = models.retrain_config(config, Path(config.output))
        named = settings_digests(fields_of(type(settings)), settings)
        identity |= {f"retrain_{name}": digest for name, digest in named.items()}  # what that file names in turn
    return identity | {"data_digest": inputs.digest}


def _bought(folder: Path) -> bool:
    """Whether anything was paid for in a folder; if not, another run may take it over."""
    accounts = [_account(folder / name) for name in ("ledger.jsonl", "grades.jsonl")]
    return any(account is not None and account.bought for account in accounts)


def _check_ledger(held: Run, ledger: Path) -> None:
    """Refuse to pay again for what a ledger held that is gone.

    Raises:
        WheelsError: for a run that had begun to pay, and whose ledger is not there or is empty.
    """
    if held.note.get("paying") and not (ledger.is_file() and whole_lines(ledger)):
        raise WheelsError(
            f"{ledger} is gone or empty, and with it the answers that were paid for; bring it back, or remove "
            f"{held.folder} to pay for all of them again"
        )


def _clear(folder: Path) -> None:
    """Remove what an earlier run without purchases left."""
    for part in PARTS:
        place = folder / part
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def _account(ledger: Path) -> Account | None:
    """Return a ledger's totals; None without a ledger."""
    return read_account(ledger) if ledger.is_file() else None


def _run_name(identity: Mapping[str, Any]) -> str:
    """Return 16 digits that identify everything an answer depends on; what has a digest may have moved."""
    named = {name: value for name, value in identity.items() if f"{name}_digest" not in identity}
    return json_digest(named)


def teacher_prompt(config: AnnotateConfig, labelled: Sequence[Row], source: str) -> str:
    """Return the teacher's input for a source: a prompt for an endpoint, the source itself for a local model.

    With demonstrations any teacher gets the prompt. They are the same rows in every prompt, drawn by the seed.
    """
    if not is_address(config.teacher) and not config.demonstrations:
        return source
    import random

    shown = random.Random(config.seed).sample(list(labelled), config.demonstrations)
    text = "".join(DEMONSTRATION.format(source=row.source, target=row.target) for row in shown)
    return config.teacher_prompt.format(source=source, demonstrations=text)


def open_context(
    config: AnnotateConfig,
    inputs: Inputs,
    folder: Path,
    run_name: str,
    endpoints: Mapping[str, Endpoint],
    stack: ExitStack,
) -> AnnotationContext:
    """Return the models of a run.

    Raises:
        WheelsError: for a model that cannot be loaded, or cannot do what is asked of it.
    """
    teacher = models.open_responder(config, "teacher", endpoints)
    load_assistant = None
    if config.assistant is not None:
        load_assistant = models.assistant_loader(config, inputs.validation, folder, run_name, endpoints, stack)
    return AnnotationContext(
        pool=inputs.pool,
        teacher=teacher,
        teacher_prompt=partial(teacher_prompt, config, inputs.labelled),
        load_student=partial(models.load_local, config, role="student"),
        load_assistant=load_assistant,
        retrain=partial(models.retrain, config, inputs.labelled, inputs.validation),
    )
