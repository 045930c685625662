"""`wheels` in a process that `accelerate launch` cuts models into shards for, on a CPU.

accelerate shards on accelerators alone; FSDP2 itself works on gloo. So the processes are told that they have some.
"""

import sys
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from wheels.cli.main import main

begin = PartialState.__init__


def begin_as_if_on_accelerators(self: PartialState, *args: Any, **kwargs: Any) -> None:
    begin(self, *args, **kwargs)
    if PartialState._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = begin_as_if_on_accelerators
    sys.exit(main(sys.argv[1:]))
