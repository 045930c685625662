"""Long prompts are read a chunk a step, so that the texts beside them go on meanwhile."""

from __future__ import annotations

import time

from wheels.decoding.models.forward_batches import CHUNK
from wheels.decoding.passes import Passes


class ReadAhead:
    """Slots whose prompt a model has yet to read, but for its last chunk: that is a pass like any other.

    Sources of encoder-decoders are read at once: an encoder sees all of its source.

    Args:
        passes: Both models over the texts.
    """

    def __init__(self, passes: Passes) -> None:
        self.passes = passes
        self.slots: list[int] = []
        """The longest wait first."""
        self.models: dict[int, str] = {}
        """For whom each of them is read."""

    def takes(self, model: str, slot: int) -> bool:
        """Take over a slot whose prompt is too long for one pass of a model; tell whether it is."""
        if len(self.passes.texts.sequence(slot).source) <= CHUNK or self.passes.unread_prompt(model, slot) <= CHUNK:
            return False
        self.slots.append(slot)
        self.models[slot] = model
        return True

    def step(self) -> tuple[str, int] | None:
        """Read a chunk for the slot that has waited longest, if there is one; return it, and the model it is for.

        It may go on; where another chunk is left, `takes` has it back.
        """
        if not self.slots:
            return None
        slot, start = self.slots.pop(0), time.perf_counter()
        model = self.models[slot]
        self.passes.read_prompt(model, slot, CHUNK)
        self.passes.texts.sequence(slot).seconds += time.perf_counter() - start
        return model, slot
