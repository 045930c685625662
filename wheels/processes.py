"""The processes of a run that `torchrun` or `accelerate launch` started."""

from __future__ import annotations

import logging
import os

log = logging.getLogger("wheels")

OF_LAUNCH = ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT")
"""What `accelerate launch` sets where it was asked for several processes."""
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""What a launcher that has started several sets in each."""


def say_if_alone() -> None:
    """Say in one line that this process is the only one where several were asked for.

    `accelerate launch --cpu --num_processes 2` starts one.
    """
    if all(name in os.environ for name in OF_LAUNCH) and not any(name in os.environ for name in SIZES):
        log.warning("accelerate launch was asked for several processes and has started one; use torchrun instead")
