"""`python -m wheels.benchmarks.speed.growth FOLDER`: how a decode step's cost grows with text, batch and model.

One token in each row behind a context: the teacher alone, random weights of the Llama family, by compiled passes.
Beside it the bound of the machine, and CTranslate2 where a pass of its own can be told: the time of a few tokens behind
a prompt, less that of one. Times are of the processor, the best of three and more, on one thread: others may use the
machine meanwhile. The context is not read, only its room is: what stands in it costs nothing.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from wheels.benchmarks.core.style import render
from wheels.benchmarks.speed import ct2_systems
from wheels.benchmarks.speed.forward_timer import ForwardTimer, Machine, Shape, best_seconds
from wheels.benchmarks.speed.growth_plot import draw
from wheels.benchmarks.speed.hf_systems import Prompts, Workload
from wheels.benchmarks.speed.limits import roofline
from wheels.benchmarks.speed.random_pair import RandomPair
from wheels.config.parsing import versions
from wheels.decoding.models.backends import use_backend
from wheels.decoding.models.runner import Runner
from wheels.environment import engines, processor_name
from wheels.errors import WheelsError
from wheels.files import write_json
from wheels.models.build import ModelSize
from wheels.models.pair import Pair

TEACHERS = (
    ModelSize(width=160, layers=3, heads=5, ff=432),
    ModelSize(width=640, layers=6, heads=10, ff=1728),
    ModelSize(width=1024, layers=8, heads=16, ff=2752),
    ModelSize(width=1280, layers=17, heads=20, ff=3456),
)
"""Of 2, 35, 109 and 347 million weights; the last is over the gigabyte that is laid out in float32."""
WEIGHTS = ("float32", "int8")
BATCHES = (1, 8, 32, 128)
LENGTHS = (16, 64, 256, 1024)
MEMORY = 2**30
"""Bytes of keys and values beyond which a step is left out."""
RIVALS = {16: (1, 8, 32), 256: (1,)}
"""Lengths and batches that CTranslate2 is timed at."""
MORE = 16
"""Tokens that it writes for the time of one."""
LARGEST = 200_000_000
"""Weights of a model that it is given."""


@dataclass(frozen=True)
class Step:
    """A token in each row, behind a context."""

    parameters: int
    weights: str
    batch: int
    length: int
    """Tokens that were read before."""
    ms: float
    """Of the processor, for all rows."""
    moved: float
    """Bytes of weights, keys and values that are read."""
    flops: float
    bound_ms: float
    """What the machine needs at least: bytes over bandwidth, or operations over float32's peak, which int8 passes."""
    rival_ms: float | None = None
    """CTranslate2's."""


def measure() -> dict[str, Any]:
    """Time all steps; return what the result's file holds."""
    torch.set_num_threads(1)
    use_backend("onnx")
    machine = machine_that_reads()
    steps = [asdict(step) for teacher in TEACHERS for step in steps_of(teacher, machine)]
    about = {"versions": versions() | engines(), "processor": processor_name(), "threads": 1}
    return about | {"machine": asdict(machine), "steps": steps}


def machine_that_reads() -> Machine:
    """Return what the machine can do at best; its bandwidth is that of reading, which a step does, if it is larger."""
    cpu = torch.device("cpu")
    machine, large = Machine.measure(cpu, torch.float32, time.process_time), torch.ones(2**26)
    seconds = best_seconds(large.sum, cpu, None, time.process_time)
    return Machine(max(machine.bandwidth, 4 * large.numel() / seconds), machine.peak)


def steps_of(teacher: ModelSize, machine: Machine) -> Iterator[Step]:
    """Yield the steps of one model, those of a kind of weights together."""
    small = ModelSize(width=32, layers=1, heads=2, ff=32)
    pair = RandomPair("llama", 8000, small, teacher, 16, MORE).build(dtype="float32", device="cpu")
    count = sum(weight.numel() for weight in pair.teacher.parameters())
    with tempfile.TemporaryDirectory() as folder:
        for weights in WEIGHTS:
            pair.teacher_weights = weights
            try:
                Runner(pair.teacher, 1, pair.vocab_size, weights=weights)
            except WheelsError:  # larger than what is laid out
                continue
            for batch in BATCHES:
                yield from _steps(pair, count, batch, machine, Path(folder))


def _steps(pair: Pair, count: int, batch: int, machine: Machine, folder: Path) -> Iterator[Step]:
    """Yield the steps of one batch, the shortest context first."""
    runner = Runner(pair.teacher, batch, pair.vocab_size, weights=pair.teacher_weights)
    for length in LENGTHS:
        cost = ForwardTimer(pair, 0).cost(Shape("teacher", "lean", batch, 1, length, 1))
        keys = cost.moved - ForwardTimer(pair, 0).cost(Shape("teacher", "lean", batch, 1, -1, 1)).moved
        if keys > MEMORY:
            return
        flops = cost.flops if pair.teacher_weights == "float32" else 0.0
        bound = roofline(cost.moved, flops, machine.bandwidth, machine.peak)
        rival = count < LARGEST and batch in RIVALS.get(length, ()) and ct2_systems.why_not(pair) is None
        step = Step(
            count,
            pair.teacher_weights,
            batch,
            length,
            1e3 * _seconds(runner, length),
            cost.moved,
            cost.flops,
            1e3 * bound,
            1e3 * _rival_seconds(pair, batch, length, folder) if rival else None,
        )
        print(step, flush=True)
        yield step


def _seconds(runner: Runner, length: int) -> float:
    """Return the seconds of a step behind a context that was not read."""
    rows = len(runner.cursor_B)
    tokens_BT, length_B = torch.full((rows, length + 1), 7), torch.full((rows,), length + 1)

    def put_back() -> None:
        runner.cursor_B = torch.full((rows,), length)

    put_back()
    runner.read(None, tokens_BT, length_B)  # so that there is room
    for layer in runner.cache.self_layers:
        for store in layer.stores():
            store.fill_(0.01)
    put_back()
    return best_seconds(
        lambda: runner.read(None, tokens_BT, length_B), torch.device("cpu"), put_back, time.process_time
    )


def _rival_seconds(pair: Pair, batch: int, length: int, folder: Path) -> float:
    """Return CTranslate2's seconds of a step: `MORE` tokens behind a prompt, less one, over the others."""
    text = " ".join(["w7"] * length)
    run, taken = ct2_systems.alone("teacher", pair.teacher_weights), []
    for count in (1, MORE + 1):
        workload = Workload(Prompts(pair, [text] * batch, count), 0.2, None, 1, folder)
        run(workload, batch)
        taken.append(best_seconds(lambda: run(workload, batch), torch.device("cpu"), None, time.process_time))  # noqa: B023
    return (taken[1] - taken[0]) / MORE


def main(folder: str) -> None:
    """Measure, and write `growth.json` and its picture."""
    found = measure()
    write_json(Path(folder) / "growth.json", found)
    render(draw, found).write(Path(folder), "growth")


if __name__ == "__main__":
    main(*sys.argv[1:])
