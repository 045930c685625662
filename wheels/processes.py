"""The processes of a run that `torchrun` or `accelerate launch` started."""

from __future__ import annotations

import logging
import os

from wheels.errors import WheelsError

log = logging.getLogger("wheels")

OF_LAUNCH = ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT")
"""What `accelerate launch` sets where it was asked for several processes."""
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""What a launcher that has started several sets in each."""


SHARDED_BY = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
"""What `accelerate launch` sets where its configuration cuts models into shards."""


def is_first() -> bool:
    """Whether this process is the only one, or the first of those that `torchrun` started: the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_first() -> None:
    """Wait until every process of a launch is here: then what the first has written can be read."""
    import torch.distributed  # on demand: `--help` needs no torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def say_what_was_not_done(device: str) -> None:
    """Say in one line each where a launch asked for what does not happen.

    `accelerate launch --cpu --num_processes 2` starts one process; on a CPU accelerate cuts no model into shards.
    """
    for kind in _asked() if device == "cpu" else []:
        log.warning("accelerate uses %s on accelerators only: on a cpu each process holds whole models", kind)
    if all(name in os.environ for name in OF_LAUNCH) and not any(name in os.environ for name in SIZES):
        log.warning("accelerate launch was asked for several processes and has started one; use torchrun instead")


def refuse_shards(device: str) -> None:
    """Refuse to train a head where a launch is to cut models into shards: who asks for that has no room for whole ones.

    Raises:
        WheelsError: naming what cuts them; not on a CPU, where accelerate cuts none.
    """
    for kind in _asked() if device != "cpu" else []:
        raise WheelsError(
            f"train holds student and teacher whole in each process, and accelerate was asked to cut them by {kind}: "
            "start it by torchrun, or give --dtype bfloat16 for models of half the size"
        )


def _asked() -> list[str]:
    """Return what was asked to cut models into shards."""
    return [kind for name, kind in SHARDED_BY.items() if os.environ.get(name, "false").lower() == "true"]
