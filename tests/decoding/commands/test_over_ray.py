"""`wheels generate --engine ray`: blocks in order; for real on two processors, with an actor that is killed twice."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.decoding.commands.conftest import TEXTS
from wheels.cli.main import main
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.commands.over_ray import AHEAD, Writer, _in_order, _room
from wheels.errors import WheelsError
from wheels.runs import Lines

ROOT = Path(__file__).parents[3]
FLAGS = ["--rule", "random", "--teacher-budget", "0.5", "--max-new-tokens", "8", "--threads", "1", "--format", "json"]


class FakeRay:
    """Calls that end in any order; those under way are counted."""

    def __init__(self, seed: int) -> None:
        self.random, self.most, self.ended, self.calls = random.Random(seed), 0, 0, 0

    class Call:
        def __init__(self, result: Any) -> None:
            self.result = result

    def actor(self) -> Any:
        def remote(first: int, part: list[str]) -> FakeRay.Call:
            self.calls += 1
            return FakeRay.Call((first, part))

        return type("Actor", (), {"write": type("Write", (), {"remote": staticmethod(remote)})})

    def wait(self, calls: list[Any]) -> tuple[list[Any], list[Any]]:
        done = self.random.sample(calls, self.random.randint(1, len(calls)))
        return done, [call for call in calls if call not in done]

    def get(self, call: Any) -> Any:
        self.most = max(self.most, self.calls - self.ended)
        self.ended += 1
        return call.result


@pytest.mark.parametrize("seed", range(5))
def test_blocks_come_back_in_order_and_few_wait(seed):
    ray = FakeRay(seed)
    parts = [(number, [str(number)]) for number in range(40)]
    assert [*_in_order(ray, [ray.actor() for _ in range(3)], iter(parts))] == parts
    assert 3 < ray.most <= 3 * AHEAD
    assert [*_in_order(ray, [ray.actor()], iter([]))] == []


def test_an_actor_writes_what_one_process_does(folder, tmp_path):
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    files = ["--model", str(folder), "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out")]
    flags = [flag for flag in FLAGS if flag not in ("--format", "json")]
    assert main(["generate", *files, *flags]) == 0
    config = GenerateConfig(
        input=str(tmp_path / "in.txt"), output=str(tmp_path / "out"), model=str(folder), rule="random",
        teacher_budget=0.5, max_new_tokens=8, threads=1, engine="ray",
    )  # fmt: skip
    writer = Writer(config, str(tmp_path), conversations=False, one_line=True)
    parts = [writer.write(0, TEXTS[:2]), writer.write(2, TEXTS[2:])]
    assert "".join(line for part in parts for line in part.lines) == (tmp_path / "out").read_text()
    assert all(part.errors == [] and part.used["total"]["tokens"] > 0 for part in parts)


def config(**more: Any) -> GenerateConfig:
    return GenerateConfig(input="a", output="b", engine="ray", **more)


def test_an_actor_takes_a_gpu_or_its_threads():
    cluster = {"CPU": 8.0, "GPU": 3.0}
    assert _room(cluster, config()) == (8, {"num_cpus": 1})
    assert _room(cluster, config(threads=3)) == (2, {"num_cpus": 3})
    assert _room(cluster, config(actors=5)) == (5, {"num_cpus": 1})
    assert _room(cluster, config(device="cuda")) == (3, {"num_cpus": 1, "num_gpus": 1})
    with pytest.raises(WheelsError, match=r"Ray has no room for an actor that takes .*'num_gpus': 1"):
        _room({"CPU": 8.0}, config(device="cuda"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"input": None}, "engine 'ray' is written from a file into a file; give --input FILE and --output FILE"),
        ({"format": "html"}, "engine 'ray' is written from a file into a file"),
        ({"budget_mode": "online"}, "budget_mode 'online' decides by what earlier rows spent"),
        ({"engine": "local", "actors": 2}, "actors 2 are those of --engine ray"),
        (
            {"teacher": "http://h/v1", "teacher_model": "m", "max_teacher_requests": 9, "teacher_key": "HOME"},
            "max_teacher_requests would be spent by each actor anew",
        ),
    ],
)
def test_what_actors_cannot_share_is_refused(more, message):
    with pytest.raises(WheelsError, match=message):
        GenerateConfig(**({"input": "a", "output": "b", "engine": "ray"} | more))


def at_work(mark: str) -> list[int]:
    """Return the actors that write a block, of the cluster that was started with a mark in its environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title, given = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::Writer.write") and mark.encode() in given:
            found.append(int(place.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the actors by /proc")
def test_an_actor_that_is_killed_loses_nothing(folder, tmp_path):
    pytest.importorskip("ray")
    rows = itertools.islice(itertools.cycle(TEXTS), 200)
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in rows))
    command = ["generate", "--model", str(folder), "--input", str(tmp_path / "in.txt"), *FLAGS]
    assert main([*command, "--output", str(tmp_path / "one")]) == 0
    mark, paths = f"WHEELS_TEST={os.getpid()}-{time.time_ns()}", os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    environment |= dict([mark.split("=")])
    command = [sys.executable, "-m", "wheels", *command, "--output", str(tmp_path / "two"), "--batch-size", "1"]
    command += ["--engine", "ray", "--actors", "2"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
        killed, kept = [], tmp_path / "two.run" / "rows"
        while run.poll() is None:
            if len(killed) < 1 + bool(Lines(kept).count) and (pids := set(at_work(mark)) - {*killed}):
                killed.append(pids.pop())
                os.kill(killed[-1], signal.SIGKILL)
            time.sleep(0.02)
    said = (tmp_path / "log").read_text()
    assert run.returncode == 0, said
    assert len(killed) == 2, "one as it loaded its models, one after some blocks"
    one, two = ((tmp_path / name).read_text().splitlines() for name in ("one", "two"))
    assert [timeless(line) for line in one] == [timeless(line) for line in two] and len(two) == 200


def timeless(line: str) -> dict[str, Any]:
    """Return what a line holds but its seconds."""
    return json.loads(line) | {"seconds": 0}
