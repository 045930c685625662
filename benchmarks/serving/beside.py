"""`python -m wheels.benchmarks.serving.beside`: `wheels serve` beside `transformers serve` with the teacher alone.

Each number of users streams the same prompts from each server, in turns: the pair at a teacher budget, the pair's
teacher alone (budget 1) and transformers' server of that teacher, with and without continuous batching. Every server is
a process of one machine with the threads that `OMP_NUM_THREADS` says; the clients are another one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.remote.loopback import about
from wheels.benchmarks.serving.clients import Serving, Waits, load, quantiles, serving
from wheels.config.fields import REQUIRED, check_fields, option
from wheels.config.parsing import parse, to_dict
from wheels.data.tasks import load_task
from wheels.files import write_json
from wheels.models.artefact import Artefact

PAIR, TEACHER = "wheels serve, the pair", "wheels serve, the teacher alone"
PLAIN, BATCHING = "transformers serve", "transformers serve, continuous batching"

THEIRS = "from transformers.cli.transformers import main; main()"
"""What the script `transformers` runs."""
BLOCKS = "512"
"""Of its key-value cache, 32 tokens each: left alone it takes half of the memory."""


@dataclass(frozen=True)
class BesideConfig:
    """Who asks whom for what."""

    model: str = option(REQUIRED, "folder of a trained causal model", metavar="DIR")
    teacher: str = option(REQUIRED, "folder of its teacher", metavar="DIR")
    data: str = option(REQUIRED, "folder or task whose test texts are prompts")
    output: str = option("runs/beside", "folder of the result", metavar="DIR")
    users: tuple[int, ...] = option((1, 4, 16, 64), "clients at a time", minimum=1)
    texts: int = option(4, "texts of a round, or as many as there are users", minimum=1)
    rounds: int = option(3, "rounds", minimum=1)
    max_tokens: int = option(40, "longest output, in tokens", minimum=1)
    teacher_budget: float = option(0.2, "share of tokens the teacher may write for the pair", share=True)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class System:
    """A server, and how it is asked."""

    name: str
    server: Serving
    body: dict[str, Any]
    templated: bool
    """Whether the client writes the prompt's template around the source."""


@dataclass(frozen=True)
class Round:
    """What one round of one system gave."""

    waits: Waits
    seconds: float
    processor: float
    """Seconds of the server's process."""


def systems(config: BesideConfig, stack: ExitStack) -> Iterator[System]:
    """Start the servers, and yield who is compared."""
    ours = stack.enter_context(serving("-m", "wheels", "serve", "--model", config.model, "--name", "pair"))
    yield System(PAIR, ours, {"model": "pair", "teacher_budget": config.teacher_budget}, templated=False)
    yield System(TEACHER, ours, {"model": "pair", "teacher_budget": 1.0}, templated=False)
    theirs = ["-c", THEIRS, "serve", config.teacher, "--dtype", "float32", "--device", "cpu"]
    for name, more in ((PLAIN, []), (BATCHING, ["--continuous-batching", "--cb-num-blocks", BLOCKS])):
        yield System(name, stack.enter_context(serving(*theirs, *more)), {"model": config.teacher}, templated=True)


def played(system: System, prompts: Sequence[str], sources: Sequence[str], users: int, most: int) -> Round:
    """Let the users ask for all texts."""
    asked = prompts if system.templated else sources
    bodies = [{**system.body, "prompt": each, "max_tokens": most, "temperature": 0} for each in asked]
    waits, before = Waits(), system.server.seconds
    seconds = asyncio.run(load(system.server.port, bodies, users, waits))
    texts = dict(zip(sources, (waits.texts.get(each, "") for each in asked), strict=True))
    waits.texts = {source: text.strip() for source, text in texts.items()}
    return Round(waits, seconds, system.server.seconds - before)


def row_of(name: str, users: int, rounds: Sequence[Round], teacher: dict[str, str]) -> dict[str, Any]:
    """Sum up the rounds of one system with one number of users."""
    every = Waits()
    for each in rounds:
        every.add(each.waits)
    return {
        "system": name,
        "users": users,
        "streams": len(every.rates),
        "errors": len(every.errors),
        "tokens_per_second": asdict(Spread.of([each.waits.tokens / each.seconds for each in rounds])),
        "tokens_per_processor_second": asdict(Spread.of([each.waits.tokens / each.processor for each in rounds])),
        "per_user": asdict(Spread.of(every.rates)),
        "first_ms": quantiles(every.first),
        "as_teacher": sum(teacher[source] == text for source, text in every.texts.items()) / len(every.texts),
    }


def main(argv: Sequence[str]) -> None:
    """Run the rounds, and write `beside.json`."""
    config = parse(BesideConfig, argv, prog="python -m wheels.benchmarks.serving.beside")
    artefact, rows = Artefact.load(config.model), load_task(config.data).rows("test")
    found: dict[tuple[str, int], list[Round]] = {}
    with ExitStack() as stack:
        compared = list(systems(config, stack))
        turns = [(0, config.users[0]), *product(range(1, config.rounds + 1), config.users)]  # the first warms up
        for number, users in turns:
            count = max(users, config.texts)
            sources = [row.source for row in islice(cycle(rows), number * count, (number + 1) * count)]
            prompts = [artefact.pair.prompt.text.format(source=source) for source in sources]
            for system in list(compared):
                told = f"round {number}, {users} users, {system.name}"
                try:
                    got = played(system, prompts, sources, users, config.max_tokens)
                except OSError as error:  # its process has ended
                    print(f"{told} is left out from here on: {error}", flush=True)
                    compared.remove(system)
                    continue
                told += f": {got.waits.tokens} tokens, {got.seconds:.1f} s, {got.processor:.1f} processor s, "
                print(f"{told}{got.waits.errors[:1]}", flush=True)
                if number:
                    found.setdefault((system.name, users), []).append(got)
    result = {
        "config": to_dict(config) | {"output": None, "model": None, "teacher": None, "data": Path(config.data).name},
        **about(artefact),
    }
    result["rows"] = [
        row_of(name, users, rounds, {s: t for each in found[TEACHER, users] for s, t in each.waits.texts.items()})
        for (name, users), rounds in found.items()
    ]
    print(f"written to {write_json(Path(config.output) / 'beside.json', result)}")


if __name__ == "__main__":
    main(sys.argv[1:])
