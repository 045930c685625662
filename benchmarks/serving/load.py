"""`python -m wheels.benchmarks.serving.load`: streaming clients beside the engine alone, in turns, on the same texts.

Each round writes the texts by `decode`, and then by as many clients as there are users, each with one stream at a time.
The clients are a process of their own on the same machine: what they compute is part of the served time, and not of the
server's processor time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.remote.loopback import about
from wheels.benchmarks.serving.clients import Serving, Waits, load, quantiles, serving
from wheels.config.fields import check_fields, option
from wheels.config.parsing import parse, to_dict
from wheels.data.tasks import load_task
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.method import Method, deferral
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode
from wheels.files import write_json
from wheels.models.artefact import Artefact

BUDGET = 0.2


@dataclass(frozen=True)
class LoadConfig:
    """How many ask for how much."""

    output: str = option("runs/load", "folder of the result", metavar="DIR")
    users: int = option(200, "clients at a time", minimum=1)
    texts: int = option(600, "texts of a round, from the embedded corpus", minimum=1)
    rounds: int = option(5, "rounds, after one that is not counted", minimum=1)
    max_tokens: int = option(64, "longest output, in tokens", minimum=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Round:
    """What one round of the engine and the clients gave."""

    alone: float
    """Tokens a second of the engine."""
    alone_processor: float
    """Its tokens for a processor second."""
    served: float
    served_processor: float
    """The server's tokens for a processor second, HTTP among them."""
    seconds: float
    """That the clients took."""
    memory: float
    """MiB of the server, after them."""


class Bench:
    """The embedded pair, and the texts of a round."""

    def __init__(self, config: LoadConfig) -> None:
        self.config, self.artefact = config, Artefact.load()
        rows = load_task("embedded-translation").rows("test")
        self.texts = [rows[number % len(rows)].source for number in range(config.texts)]
        self.method: Method = deferral(calibrated(self.artefact, "learned", BUDGET), BUDGET)

    def round(self, server: Serving, waits: Waits) -> Round:
        """Write all texts by the engine, then by the server."""
        most = self.config.max_tokens
        start, processor = time.perf_counter(), time.process_time()
        traces = list(decode(self.artefact.pair, self.texts, self.method, DecodeParams(max_new_tokens=most)))
        alone, alone_processor = time.perf_counter() - start, time.process_time() - processor
        seen, processor = Waits(), server.seconds
        bodies = [{"model": "embedded-translation", "prompt": text, "max_tokens": most} for text in self.texts]
        seconds = asyncio.run(load(server.port, bodies, self.config.users, seen))
        processor = server.seconds - processor
        waits.add(seen)
        wrote, tokens = sum(trace.tokens for trace in traces), seen.tokens
        rates = (wrote / alone, wrote / alone_processor, tokens / seconds, tokens / processor)
        return Round(*rates, seconds=seconds, memory=server.memory)


def summary(rounds: Sequence[Round], waits: Waits) -> dict[str, Any]:
    """Sum up all rounds; the first is not among them."""
    return {
        "streams": len(waits.rates),
        "errors": len(waits.errors),
        "seconds": sum(each.seconds for each in rounds),
        "alone": asdict(Spread.of([each.alone for each in rounds])),
        "served": asdict(Spread.of([each.served for each in rounds])),
        "ratio": asdict(Spread.of([each.served / each.alone for each in rounds])),
        "processor_ratio": asdict(Spread.of([each.served_processor / each.alone_processor for each in rounds])),
        "first_ms": quantiles(waits.first),
        "between_ms": quantiles(waits.between),
        "memory_mib": [round(each.memory, 1) for each in rounds],
    }


def main(argv: Sequence[str]) -> None:
    """Run the rounds, and write `load.json`."""
    config = parse(LoadConfig, argv, prog="python -m wheels.benchmarks.serving.load")
    bench, rounds, waits = Bench(config), list[Round](), Waits()
    with serving("-m", "wheels", "serve", "--queue", str(config.users), "--backend", "torch") as server:
        print(f"not counted: {bench.round(server, Waits())}", flush=True)
        for number in range(config.rounds):
            rounds.append(bench.round(server, waits))
            print(f"round {number + 1}: {rounds[-1]}, {len(waits.errors)} errors", flush=True)
    result = {"config": to_dict(config) | {"output": None}, **about(bench.artefact), **summary(rounds, waits)}
    print(f"written to {write_json(Path(config.output) / 'load.json', result)}")


if __name__ == "__main__":
    main(sys.argv[1:])
