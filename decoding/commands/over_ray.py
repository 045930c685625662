"""`wheels generate --engine ray`: actors of Ray write blocks of rows, and what comes back is kept here, in order.

Ray starts the actors where the cluster has room. Where one dies Ray starts it again, and gives it its block again
(https://docs.ray.io/en/latest/ray-core/fault_tolerance/actors.html). Outputs depend on their own rows, so the file is
that of one process.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

from wheels.decoding.commands.generate import generate, load_artefact, render, within_memory
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.decoding.models.backends import use_backend
from wheels.decoding.render import Summary
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.models.loading import first_line
from wheels.threads import set_threads

BATCHES = 8
"""Batches of a block: the last one of a block has fewer and fewer rows."""
AHEAD = 4
"""Blocks for each actor that are under way, or wait here for an earlier one."""


class Block(NamedTuple):
    """The outputs of rows that follow each other."""

    lines: list[str]
    used: dict[str, Any]
    """What the teacher was used for, as `Summary.state` tells it."""
    errors: list[str]
    """Why there is nothing in some of the lines."""


class Writer:
    """What an actor does: it holds the models, and writes blocks.

    Args:
        config: How.
        folder: Where the command was given; paths are looked up there, where the actor's machine has it too.
        conversations: Whether the texts are conversations.
        one_line: Whether each text is on a line of its own.
    """

    def __init__(self, config: GenerateConfig, folder: str, *, conversations: bool, one_line: bool) -> None:
        self.config, self.folder, self.conversations, self.one_line = config, folder, conversations, one_line

    @cached_property
    def artefact(self) -> Artefact:
        """The models; loaded for the first block, for what goes wrong in a constructor has no words of its own."""
        with suppress(OSError):
            os.chdir(self.folder)
        use_backend(self.config.backend)
        artefact = load_artefact(self.config, conversations=self.conversations)
        set_threads(self.config.threads, artefact.pair)
        return artefact

    def write(self, first: int, texts: list[str]) -> Block:
        """Return the outputs of texts; `first` is the number of the first of them."""
        lines, used, errors = list[str](), Summary(), list[str]()
        config = within_memory(self.config, self.artefact, texts)
        for trace in generate(config, self.artefact, texts, first=first, total=len(texts)):
            used.add([trace])
            lines.append(render(config, trace, one_line=self.one_line))
            errors += [] if trace.error is None else [trace.error]
        return Block(lines, used.state, errors)


def blocks(config: GenerateConfig, texts: Iterable[str], first: int, total: int, **of_texts: bool) -> Iterator[Block]:
    """Yield the outputs of texts in order, as the actors of a cluster write them.

    Args:
        config: How; `actors` says how many at most.
        texts: Any number.
        first: The number of the first of them.
        total: How many there are.
        **of_texts: `conversations` and `one_line` of `Writer`.

    Raises:
        WheelsError: without Ray or room for an actor, and what an actor raises.
    """
    rest = iter(texts)
    with _cluster() as ray:
        count, needs = _room(ray.cluster_resources(), config)
        size = min(BATCHES * config.batch_size, -(-total // count))
        parts = iter(lambda: list(islice(rest, size)), [])
        kind = ray.remote(**needs, max_restarts=-1, max_task_retries=-1)(Writer)
        actors = [kind.remote(config, os.getcwd(), **of_texts) for _ in range(min(count, -(-total // size)))]
        try:
            yield from _in_order(ray, actors, ((first + place * size, part) for place, part in enumerate(parts)))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, WheelsError):
                raise error.cause from None
            raise
        except ray.exceptions.RayActorError as error:
            raise WheelsError(f"Ray gave up an actor: {first_line(error)}; the same command goes on") from error


def _in_order(ray: Any, actors: list[Any], parts: Iterator[tuple[int, list[str]]]) -> Iterator[Block]:
    """Give the parts to whichever actor is free, and yield what each became, in their order."""
    idle, running, order = [*actors], dict[Any, Any](), deque[Any]()
    while True:
        while idle and len(order) < AHEAD * len(actors) and (part := next(parts, None)) is not None:
            actor = idle.pop()
            order.append(call := actor.write.remote(*part))
            running[call] = actor
        if not order:
            return
        done = ray.wait([*running])[0] if running else []
        idle += map(running.pop, done)
        while order and order[0] not in running:
            yield ray.get(order.popleft())


@contextmanager
def _cluster() -> Iterator[Any]:
    """Yield Ray, connected to the cluster that `RAY_ADDRESS` names or that runs here; else to one of this machine.

    Raises:
        WheelsError: where Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise WheelsError("engine 'ray' needs Ray: pip install 'training-wheels[ray]'") from None
    ours = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, logging_level="ERROR")
    signal.signal(signal.SIGTERM, ours)  # Ray has one that ends with another exit code
    try:
        yield ray
    finally:
        ray.shutdown()


def _room(cluster: dict[str, float], config: GenerateConfig) -> tuple[int, dict[str, Any]]:
    """Return how many actors there are, and what of the cluster each takes.

    Raises:
        WheelsError: where it has no room for one.
    """
    needs: dict[str, Any] = {"num_cpus": config.threads or 1}
    count = int(cluster.get("CPU", 0)) // needs["num_cpus"]
    if config.device.partition(":")[0] != "cpu":
        needs["num_gpus"], count = 1, min(count, int(cluster.get("GPU", 0)))
    if not count:
        raise WheelsError(f"Ray has no room for an actor that takes {needs}: the cluster has {cluster}")
    return min(count, config.actors or count), needs
