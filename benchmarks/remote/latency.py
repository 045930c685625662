"""`python -m wheels.benchmarks.remote.latency`: tokens a second with a teacher some milliseconds away.

Every round writes the same texts by the engine with both models here, and then with the teacher on the loopback at each
latency and span, once waiting for its answers and once writing on meanwhile. Rounds are interleaved; the server is a
process of its own on the same machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.remote.loopback import NAME, about, server_of
from wheels.config.fields import check_fields, option
from wheels.config.parsing import parse, to_dict
from wheels.data.tasks import load_task
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.method import deferral
from wheels.decoding.params import DecodeParams
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.span import AUTO, check_span
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.streaming import decode
from wheels.decoding.trace import Trace, teacher_use
from wheels.files import write_json
from wheels.models.artefact import Artefact

SINGLE = "tokens:1"
"""Calls that buy one token."""


@dataclass(frozen=True)
class LatencyConfig:
    """What is measured."""

    output: str = option("runs/latency", "folder of the result", metavar="DIR")
    model: str | None = option(None, "folder of a trained model (default: the embedded pair)", metavar="DIR")
    data: str = option("embedded-translation", "task whose test texts are written")
    texts: int = option(24, "texts of a round", minimum=1)
    rounds: int = option(3, "rounds, after one of the local engine that is not counted", minimum=1)
    teacher_budget: float = option(0.2, "share of the tokens that the teacher may write", share=True)
    latencies: tuple[float, ...] = option((0.0, 10.0, 50.0, 200.0), "added latencies, in milliseconds", minimum=0.0)
    spans: tuple[str, ...] = option((SINGLE, "tokens:4", "tokens:8", AUTO), "what a call buys", check=check_span)
    batch_sizes: tuple[int, ...] = option((1, 16), "texts in flight", minimum=1)

    def __post_init__(self) -> None:
        check_fields(self)


Cell = tuple[int, float | None, str, bool]
"""The batch size; the latency, None where both models are here; the span; and whether the student writes on."""


def cells_of(config: LatencyConfig) -> list[Cell]:
    """Return what is measured: spans beyond one token go with online mode, where a text writes on only alone."""
    there = product(config.batch_sizes, config.latencies, config.spans, (False, True))
    found: list[Cell] = [cell for cell in there if not (cell[3] and cell[2] != SINGLE and cell[0] > 1)]
    return [(batch, None, SINGLE, False) for batch in config.batch_sizes] + found


def timed(config: LatencyConfig, artefact: Artefact, texts: Sequence[str], port: int, cell: Cell) -> dict[str, Any]:
    """Write the texts once; return what that took."""
    batch, latency, span, write_on = cell
    mode, pair = "average" if span == SINGLE else "online", artefact.pair
    method = deferral(calibrated(artefact, "learned", config.teacher_budget, mode=mode), config.teacher_budget, mode)
    if latency is not None:
        url = f"http://127.0.0.1:{port}/{latency:g}/v1"
        remote = RemoteTeacher(url, NAME, span=span, write_on=write_on, on_error="stop")
        pair = RemotePair(pair.student, remote, pair.tokenizer, prompt=pair.prompt)
    start = time.perf_counter()
    traces = decode(pair, texts, method, DecodeParams(max_new_tokens=64), batch_size=batch)
    seconds = time.perf_counter() - start
    pair.close()
    return facts_of(traces) | {"seconds": seconds}


def facts_of(traces: list[Trace]) -> dict[str, Any]:
    """Return what was written."""
    return {
        "tokens": sum(trace.tokens for trace in traces),
        "use": teacher_use(traces),
        "calls": sum(trace.teacher_passes for trace in traces),
        "guessed": sum(trace.guessed for trace in traces),
        "text": [list(trace.token_ids) for trace in traces],
    }


def row_of(cell: Cell, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the rounds of one cell."""
    batch, latency, span, write_on = cell
    rates = [each["tokens"] / each["seconds"] for each in rounds]
    calls = sum(each["calls"] for each in rounds)
    return {
        "batch_size": batch,
        "latency_ms": latency,
        "span": span,
        "write_on": write_on,
        "tokens_per_second": asdict(Spread.of(rates)),
        "use": rounds[0]["use"],
        "calls": rounds[0]["calls"],
        "hidden": sum(each["guessed"] for each in rounds) / calls if calls else 0.0,
    }


def main(argv: Sequence[str]) -> None:
    """Measure, and write `latency.json`."""
    config = parse(LatencyConfig, argv, prog="python -m wheels.benchmarks.remote.latency")
    artefact = Artefact.load(config.model)
    texts = [row.source for row in load_task(config.data).rows("test")[: config.texts]]
    cells, found = cells_of(config), dict[Cell, list[dict[str, Any]]]()
    with server_of(config.model) as port:
        for cell in cells[: len(config.batch_sizes)]:
            timed(config, artefact, texts, port, cell)
        for number in range(config.rounds):
            for cell in cells:
                found.setdefault(cell, []).append(timed(config, artefact, texts, port, cell))
                print(f"round {number + 1}: {row_of(cell, found[cell][-1:])}", flush=True)
    for batch, latency, span, write_on in cells:  # what writing on must not change
        if write_on:
            pairs = zip(found[batch, latency, span, True], found[batch, latency, span, False], strict=True)
            assert all(on["text"] == off["text"] for on, off in pairs), "writing on changed a text"
    result = {
        "config": to_dict(config) | {"output": None},
        **about(artefact),
        "rows": [row_of(cell, rounds) for cell, rounds in found.items()],
    }
    print(f"written to {write_json(Path(config.output) / 'latency.json', result)}")


if __name__ == "__main__":
    main(sys.argv[1:])
