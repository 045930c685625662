"""The processes of a run that `torchrun` or `accelerate launch` started."""

from __future__ import annotations

import logging
import os

log = logging.getLogger("wheels")

OF_LAUNCH = ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT")
"""What `accelerate launch` sets where it was asked for several processes."""
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""What a launcher that has started several sets in each."""


SHARDED_BY = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
"""What `accelerate launch` sets where its configuration cuts models into shards."""


def say_what_was_not_done(device: str) -> None:
    """Say in one line each where a launch asked for what does not happen.

    `accelerate launch --cpu --num_processes 2` starts one process; on a CPU accelerate cuts no model into shards.
    """
    for name, kind in SHARDED_BY.items():
        if device == "cpu" and os.environ.get(name, "false").lower() == "true":
            log.warning("accelerate uses %s on accelerators only: on a cpu each process holds whole models", kind)
    if all(name in os.environ for name in OF_LAUNCH) and not any(name in os.environ for name in SIZES):
        log.warning("accelerate launch was asked for several processes and has started one; use torchrun instead")
