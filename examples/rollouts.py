"""Roll out a rule through the environment, beside the engine; fork; and say what both cost.

    python examples/rollouts.py --student runs/student --teacher runs/teacher --data DATA --texts 1024 --rounds 9

Without arguments it runs on the embedded pair. Both write the same texts with the same rule, in turns, 64 at a time;
processor seconds are counted, which other work on the machine changes less than the clock's.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import wheels
from wheels.data import load_task
from wheels.envs import DeferralVectorEnv, EpisodeRecord, Start

ROWS, LIMIT, FORK_AT = 64, 64, 8


def roll_out(env: DeferralVectorEnv, rule: wheels.Rule, starts: list[Start]) -> list[EpisodeRecord]:
    """Return the record of each start, in order."""
    numbers, records = env.feed(starts), dict[int, EpisodeRecord]()
    env.reset(seed=0)
    while env.waiting or bool(env.active_B.any()):
        writes = env.numbers.copy()
        *_, info = env.step(rule(env.state).long().numpy())
        for row in np.flatnonzero(info.get("_record", ())):
            records[writes[row]] = info["record"][row]
    return [records[number] for number in numbers]


def seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(env: DeferralVectorEnv, rule: wheels.Rule, rounds: int) -> None:
    """Print episodes a second through the environment, and their ratio to the engine's."""
    sources = [row.source for row in env.rows]
    params = wheels.DecodeParams(max_new_tokens=LIMIT)
    starts = [Start(index, 0, 1.0, 0.0) for index in range(len(sources))]
    starts.sort(key=lambda start: -len(env.pair.encode([sources[start.index]])[0]))  # as the engine does
    records = roll_out(env, rule, starts)
    traces = wheels.decode(env.pair, sources, wheels.deferral(rule), params, batch_size=ROWS)
    same = sum(
        record.token_T.tolist() == list(traces[start.index].token_ids)
        for record, start in zip(records, starts, strict=True)
    )
    use = sum(record.calls for record in records) / sum(len(record.token_T) for record in records)
    print(f"{len(starts)} texts, use {use:.2f}, the same tokens in {same}")
    ratios, rates = [], []
    for _ in range(rounds):
        engine = seconds(lambda: wheels.decode(env.pair, sources, wheels.deferral(rule), params, batch_size=ROWS))
        own = seconds(lambda: roll_out(env, rule, starts))
        ratios.append(engine / own)
        rates.append(len(starts) / own)
    ratio, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{statistics.median(rates):.0f} episodes a second, {ratio:.2f} of the engine's ({spread})")


def compare_forks(env: DeferralVectorEnv, rounds: int) -> None:
    """Print what a copied state costs, and what it costs to write up to it again."""
    actions = np.arange(ROWS) % 3 == 0

    def write() -> None:
        env.feed([Start(index % len(env.rows), 0, 1.0, 0.0) for index in range(ROWS)])
        env.reset(seed=0)
        for _ in range(FORK_AT):
            env.step(actions.astype(np.int64))

    write()
    rows = env.active_B.nonzero()[:, 0].tolist()
    states = env.snapshot(rows)
    costs = {
        "snapshot": lambda: env.snapshot(rows),
        "fork": lambda: env.fork(rows, states),
        f"{FORK_AT} tokens again": write,
    }
    for name, work in costs.items():
        rates = [len(rows) / seconds(work) for _ in range(3 * rounds)]
        print(f"{name}: {statistics.median(rates):.0f} states a second ({min(rates):.0f} to {max(rates):.0f})")


def main() -> None:
    """Measure on the embedded pair, or on the one that is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("student", "teacher", "data"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--reward", default="terminal")
    parser.add_argument("--rule", default="margin")
    parser.add_argument("--threshold", type=float, default=-0.2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    own = given.student is not None
    model = wheels.Model(wheels.Pair.load(given.student, given.teacher)) if own else wheels.Model.embedded()
    rows = load_task(given.data or "embedded-translation").train[: given.texts]
    env = DeferralVectorEnv(
        ROWS, model.pair, rows, max_new_tokens=LIMIT, reward=given.reward, reward_mode="episode", observed=()
    )
    compare(env, model.rule(given.rule).at(given.threshold), given.rounds)
    compare_forks(env, given.rounds)


if __name__ == "__main__":
    main()
