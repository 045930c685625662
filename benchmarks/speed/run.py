"""`wheels bench speed`: time every decoding method in turn, beside transformers' own and a theoretical limit.

Each batch size has rounds; in a round every system decodes the same texts once, in an order that is rotated from
round to round, and the bare forward passes are timed after them: a busy machine slows all of them alike.
Each round is kept as soon as it is done.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from wheels.benchmarks.core.recipe import find_recipe
from wheels.benchmarks.core.style import render
from wheels.benchmarks.curve.decodes import rows_digest
from wheels.benchmarks.speed import ct2_systems, llama_systems
from wheels.benchmarks.speed.config import EMBEDDED_DATA, SYSTEMS, WITH_RANDOM_WEIGHTS, SpeedConfig
from wheels.benchmarks.speed.forward_timer import ForwardTimer, Machine
from wheels.benchmarks.speed.hf_systems import Outcome, Prompts, Workload
from wheels.benchmarks.speed.limits import rotated
from wheels.benchmarks.speed.plot import draw
from wheels.benchmarks.speed.quality import Judge
from wheels.benchmarks.speed.random_pair import RandomPair
from wheels.benchmarks.speed.records import Round, Timing, round_file, round_of
from wheels.benchmarks.speed.summary import BatchFigures, Speed, WorkloadFacts, summarise, time_forwards
from wheels.benchmarks.speed.systems import KNOWN
from wheels.benchmarks.speed.table import as_csv, as_text
from wheels.config.fields import loading_of, weights_of
from wheels.config.parsing import to_dict, versions, write_resolved
from wheels.data.tasks import load_task
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.rule import AnyRule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models.auto import Choice, choices_of
from wheels.decoding.models.backends import use_backend
from wheels.environment import engines, processor_name
from wheels.errors import WheelsError
from wheels.files import write_json, write_text
from wheels.models.artefact import Artefact
from wheels.models.pair import Pair
from wheels.runs import cached, claim, is_whole
from wheels.threads import set_threads

log = logging.getLogger("wheels")

TIMED = ("forward_timer", "systems", "hf_systems", "ct2_systems", "llama_systems")
"""The modules of this folder whose own work is timed."""
FLATTERED = "random weights repeat one token, which flatters speculation: it is not timed; deferral calls at random"
CONVERTED = "converted"
"""The folder, in that of the results, of the models as another engine reads them."""


@dataclass(frozen=True)
class SpeedPlan:
    """Who decodes what."""

    workload: Workload
    names: list[str]
    """The systems."""
    task: str
    student: str
    teacher: str
    digests: dict[str, str]
    """Of the models and of the texts."""
    notes: list[str]
    """What a reader must know."""
    judge: Judge | None = None
    """Scores what is written; None: the texts have no references."""


def run(config: SpeedConfig) -> Speed:
    """Time all systems, write the results to `config.output`, print the tables, and return them.

    Raises:
        WheelsError: for what the user can mend: data, model, a rule that is missing, a folder of another run.
    """
    folder = Path(config.output)
    use_backend(config.backend)
    plan = make_plan(config)
    set_threads(config.threads, plan.workload.prompts.pair)
    made_by = made_by_of(config, plan)
    with claim(folder, "bench speed", config, made_by):
        return _time(config, folder, plan, made_by)


def _time(config: SpeedConfig, folder: Path, plan: SpeedPlan, made_by: dict[str, Any]) -> Speed:
    """Time all systems, and write and print the results."""
    facts = facts_of(config, plan)
    batches = [measure(config, plan, facts, size) for size in config.batch_sizes]
    about = {
        "config": to_dict(config),
        "task": plan.task,
        "student": plan.student,
        "teacher": plan.teacher,
        "rows": facts.rows,
        **made_by["machine"],
        "dtype": number_format(config, plan.workload.prompts.pair),
        "load_average": list(os.getloadavg()),
        **plan.digests,
        "code_digest": made_by["code_digest"],
        "signature": f"{facts.place}|{config.dtype}|threads:{torch.get_num_threads()}",
    }
    speed = Speed(about, [*plan.notes, *busy(config, batches)], batches)
    write_json(folder / "speed.json", speed.to_json())
    write_text(folder / "speed.csv", as_csv(speed))
    render(draw, speed.to_json()).write(folder, "speed")
    write_resolved(config, folder, plan.digests)
    print(as_text(speed))
    print(f"written to {folder}: speed.json, speed.csv, speed.png")
    return speed


def busy(config: SpeedConfig, batches: list[BatchFigures]) -> list[str]:
    """Return a note where the machine was busy: a decode waits then, the best of several forwards does not."""
    load = max(each.load_average[0] for batch in batches for each in batch.rounds)
    cores = os.cpu_count() or 1
    if config.device != "cpu" or load <= cores:
        return []
    return [f"the machine was busy (load up to {load:.1f} on {cores} cores): of overhead and distance trust the least"]


def make_plan(config: SpeedConfig) -> SpeedPlan:
    """Load the pair and the texts, and say who can decode them.

    Raises:
        WheelsError: where a system that was asked for needs a rule that the model does not have.
    """
    if config.random_weights is not None:
        return _random_plan(config, RandomPair.read(find_recipe(config.random_weights)))
    task = load_task(config.data or EMBEDDED_DATA, require_target=False)
    rows = task.rows(config.split)[: config.rows]
    artefact = Artefact.load(config.model, teacher=config.teacher, **loading_of(config))
    rule, missing = _rule(config, artefact)
    names, notes = possible(config, config.methods or SYSTEMS, missing | _rivals(artefact.pair))
    if len(rows) < config.rows:
        notes.append(f"{task.name} has {len(rows)} of the {config.rows} rows asked for")
    prompts = Prompts(artefact.pair, [row.source for row in rows], config.max_new_tokens)
    references = [row.scored_against for row in rows if row.target]
    return SpeedPlan(
        Workload(prompts, config.teacher_budget, rule, config.draft_length, Path(config.output) / CONVERTED),
        names,
        task.name,
        artefact.student_name,
        artefact.teacher_name,
        {
            "model_digest": artefact.digest,
            "head_digest": artefact.head_digest("learned", 0),
            "data_digest": rows_digest(rows),
        },
        notes,
        Judge(references, task.metrics) if len(references) == len(rows) else None,
    )


def _rule(config: SpeedConfig, artefact: Artefact) -> tuple[AnyRule | None, dict[str, str]]:
    """Return the learned rule at the budget, or why there is none."""
    try:
        return calibrated(artefact, "learned", config.teacher_budget), {}
    except WheelsError as error:
        return None, {"rule": str(error)}


def _rivals(pair: Pair) -> dict[str, str]:
    """Return why the engines that are no part of this package cannot run a pair, by their package."""
    reasons = {"ctranslate2": ct2_systems.why_not(pair), "llama.cpp": llama_systems.why_not(pair)}
    return {package: reason for package, reason in reasons.items() if reason is not None}


def possible(config: SpeedConfig, names: Sequence[str], missing: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the systems that can run, and a note for each need of the others that is missing.

    Raises:
        WheelsError: where one of them was asked for by name.
    """
    kept, notes = list(names), []
    for need, reason in missing.items():
        needy = [name for name in names if KNOWN[name].needs == need]
        if needy and config.methods:
            raise WheelsError(f"{', '.join(needy)} cannot be timed: {reason}")
        kept = [name for name in kept if name not in needy]
        notes += [f"without {', '.join(needy)}: {reason}"] if needy else []
    return kept, notes


def _random_plan(config: SpeedConfig, sizes: RandomPair) -> SpeedPlan:
    """Return the plan for an untrained pair, which calls at random."""
    pair = sizes.build(dtype=config.dtype, device=config.device)
    pair.student_weights, pair.teacher_weights = config.student_weights, config.teacher_weights
    rule = RULES["random"]
    prompts = Prompts(pair, sizes.sources(config.rows), sizes.new_tokens)
    names, notes = possible(config, config.methods or WITH_RANDOM_WEIGHTS, _rivals(pair))
    return SpeedPlan(
        Workload(prompts, config.teacher_budget, rule, config.draft_length, Path(config.output) / CONVERTED),
        names,
        "random words",
        _size_name(pair.student, sizes.family),
        _size_name(pair.teacher, sizes.family),
        {"sizes": repr(sizes)},
        [FLATTERED, *notes],
    )


def _size_name(model: torch.nn.Module, family: str) -> str:
    """Return what a model without a name is called by: its family and its size."""
    return f"random {family} {sum(weight.numel() for weight in model.parameters()) / 1e6:.1f}M"


def made_by_of(config: SpeedConfig, plan: SpeedPlan) -> dict[str, Any]:
    """Return everything that a round depends on; more rounds and more batch sizes may be added to those there are."""
    machine = {
        "versions": versions() | engines(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(config.device),
        "threads": torch.get_num_threads(),
        "dtype": config.dtype,
        "device": config.device,
    }
    return {
        **to_dict(config, ("output", "rounds", "batch_sizes")),
        "contestants": plan.names,
        **plan.digests,
        "code_digest": code_digest(),
        "machine": machine,
    }


def number_format(config: SpeedConfig, pair: Pair) -> str:
    """Return the number format of the models, and what runs ours where that is not torch as they are."""
    by_size = {size: choices_of(pair, size) for size in config.batch_sizes}
    parts = [config.dtype]
    for place, model in enumerate(("student", "teacher")):
        sizes: dict[Choice, list[str]] = {}
        for size, choices in by_size.items():
            sizes.setdefault(choices[place], []).append(str(size))
        told = [f"{choice} at {' and '.join(sizes[choice])}" if len(sizes) > 1 else str(choice) for choice in sizes]
        if sizes.keys() != {Choice("torch", "float32")}:
            parts.append(f"{model} by {', '.join(told)}")
    return ", ".join(parts)


def code_digest() -> str:
    """Return the digest of the code that is timed: rounds of another engine are not rounds of this one."""
    total = hashlib.sha256()
    for package in ("wheels.decoding", "wheels.benchmarks.speed"):
        for file in sorted(Path(str(resources.files(package))).rglob("*.py")):
            if package == "wheels.decoding" or file.stem in TIMED:
                total.update(file.read_bytes())
    return total.hexdigest()[:16]


def _processor(device: str) -> str:
    """Return the name of what computes."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return processor_name()


def facts_of(config: SpeedConfig, plan: SpeedPlan) -> WorkloadFacts:
    """Return what the figures of all systems have in common."""
    prompts = plan.workload.prompts
    pair: Pair = prompts.pair
    length = round(statistics.mean(map(len, pair.encode(prompts.texts))))
    return WorkloadFacts(
        rows=len(prompts.texts),
        prefix=len(pair.start_ids) if pair.is_seq2seq else length,
        source=length if pair.is_seq2seq else 0,
        longest=prompts.max_new_tokens,
        draft=config.draft_length,
        budget=config.teacher_budget,
        rounded=tuple(name.partition("_")[0] for name, kind in weights_of(config).items() if kind != "float32"),
        place=f"{plan.task}|{len(prompts.texts)}|{plan.student}|{plan.teacher}",
    )


def measure(config: SpeedConfig, plan: SpeedPlan, facts: WorkloadFacts, batch_size: int) -> BatchFigures:
    """Return the figures at one batch size: kept rounds as they are, the missing ones timed now."""
    files = [round_file(Path(config.output), batch_size, number) for number in range(config.rounds)]
    left = sum(not is_whole(file, None) for file in files)
    runs = len(plan.names) * (left + bool(left))
    if left:
        log.info(
            "batch size %d: %d systems decode %d rows in a warm-up and %d of %d rounds",
            batch_size,
            len(plan.names),
            len(plan.workload.prompts.texts),
            left,
            config.rounds,
        )
    with tqdm(total=runs, unit="run", file=sys.stderr, disable=not left or None) as bar:

        def one(name: str, word: str) -> Outcome:
            bar.set_description(f"batch {batch_size}, {word}: {name}")
            outcome = KNOWN[name].run(plan.workload, batch_size)
            bar.update()
            return outcome

        for name in plan.names if left else []:
            one(name, "warm-up")

        def make(number: int) -> dict[str, Any]:
            return asdict(time_round(plan, facts, batch_size, number, one, bar))

        rounds = [cached(file, None, partial(make, number)) for number, file in enumerate(files)]
    return summarise(facts, batch_size, list(map(round_of, rounds)), plan.workload.prompts.pair, plan.judge)


def time_round(
    plan: SpeedPlan,
    facts: WorkloadFacts,
    batch_size: int,
    number: int,
    one: Callable[[str, str], Outcome],
    bar: tqdm[NoReturn],
) -> Round:
    """Run every system once by `one`, and time the bare forward passes.

    These are timed in every round, right after the systems: a busy machine slows both, and the ratios hold.
    """
    load, order = list(os.getloadavg()), rotated(plan.names, number)
    outcomes = {name: one(name, f"round {number + 1}") for name in order}
    timings = {name: Timing.of(outcomes[name]) for name in plan.names}
    pair = plan.workload.prompts.pair
    timer = ForwardTimer(pair, facts.source)
    bar.set_description(f"batch {batch_size}, round {number + 1}: bare forwards")
    shapes = itertools.count(1)
    time_forwards(facts, batch_size, timings, timer, lambda: bar.set_postfix_str(f"shape {next(shapes)}"))
    bar.set_postfix_str("")
    machine = Machine.measure(pair.device, pair.dtype)
    return Round(order, load, timings, machine, [[*shape, timer.known[shape]] for shape in sorted(timer.known)])
