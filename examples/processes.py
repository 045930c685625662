"""Time a command's decoding while others like it run on the same machine: its threads, and how they wait.

    python examples/processes.py --model runs/model --data DATA --texts 64 --processes 1,2,4 --rounds 5
    python examples/processes.py --random-weights speed-random --batch-size 8 --texts 8

Without a model it runs on the embedded pair. Each process loads the pair once, then decodes the same texts whenever it
is told to. `torch` is what torch does by itself: a thread for each processor, which spins as it waits. `wheels` is
what every command does. `N` is N threads that sleep. Seconds until the last one ends: median and range of rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

OWN, DEFAULT = "torch", "wheels"
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def work(given: argparse.Namespace) -> None:
    """Load and warm up; then decode once for each line that comes in."""
    from wheels.threads import set_threads, sleep_when_idle

    if given.worker != OWN:
        sleep_when_idle()
    import torch

    import wheels
    from wheels.benchmarks.core.recipe import find_recipe
    from wheels.benchmarks.speed.random_pair import RandomPair
    from wheels.data import load_task

    limit = given.max_new_tokens
    if given.random_weights:
        sizes = RandomPair.read(find_recipe(given.random_weights))
        model = wheels.Model(sizes.build(dtype="float32", device="cpu"))
        texts, rule, limit = sizes.sources(given.texts), "random", sizes.new_tokens
    else:
        model = wheels.Model.load(given.model) if given.model else wheels.Model.embedded()
        texts = [row.source for row in load_task(given.data or "embedded-translation").test[: given.texts]]
        rule = "learned"
    if given.worker != OWN:
        set_threads(None if given.worker == DEFAULT else int(given.worker), model.pair)
    print(torch.get_num_threads(), flush=True)
    for _ in sys.stdin:
        model.generate(texts, rule=rule, teacher_budget=0.2, batch_size=given.batch_size, max_new_tokens=limit)
        print(flush=True)


def start(kind: str) -> subprocess.Popen[str]:
    """Start a process that decodes, with an environment that says nothing about threads."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", kind]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def once(processes: list[subprocess.Popen[str]]) -> float:
    """Return the seconds until all of some processes have decoded the texts."""
    begin = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        print(file=process.stdin, flush=True)
    for process in processes:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("a process ended")
    return time.perf_counter() - begin


def main() -> None:
    """Measure every way of waiting in turns, with each number of processes, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "random-weights", "worker"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS if name == "worker" else None)
    for name, number in (("texts", 16), ("batch-size", 32), ("max-new-tokens", 64), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--threads", default=f"{OWN},{DEFAULT}", help="torch, wheels, or numbers")
    given = parser.parse_args()
    if given.worker:
        return work(given)
    counts = sorted(map(int, given.processes.split(",")))
    started = {kind: [start(kind) for _ in range(counts[-1])] for kind in given.threads.split(",")}
    threads = {kind: {int(process.stdout.readline()) for process in each} for kind, each in started.items()}
    seconds: dict[tuple[int, str], list[float]] = {}
    for number in range(given.rounds + 1):
        for count in counts:
            for kind, processes in started.items():
                taken = once(processes[:count])
                if number:  # the first round warms up
                    seconds.setdefault((count, kind), []).append(taken)
    for (count, kind), each in seconds.items():
        row = {"processes": count, "kind": kind, "threads": max(threads[kind]), "rounds": given.rounds}
        row |= {"seconds": round(statistics.median(each), 2), "range": [round(min(each), 2), round(max(each), 2)]}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
