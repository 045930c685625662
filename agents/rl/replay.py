"""A bounded replay buffer of episodes with its own seed; a resumed run continues exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from wheels.agents.rl.episode import Episode, pack, unpack
from wheels.errors import WheelsError


class Replay:
    """On-policy and off-policy episodes, mixed in a given ratio in every batch.

    Bounded by states, since a state is what takes memory: about `capacity * (4 F + 25)` bytes for features of width F.
    When full, the oldest episode goes of the kind that holds more than its part of the room (`on_policy_share` of it
    for the policy's own), so a flow of one kind never drives out the other.
    """

    def __init__(self, capacity: int, *, on_policy_share: float = 0.5, seed: int = 0) -> None:
        """Start empty.

        Args:
            capacity: states to hold, >= 1.
            on_policy_share: part of each batch, and of the room, for episodes of the policy; in [0, 1].
            seed: of the sampling; the global generators are neither read nor moved.

        Raises:
            WheelsError: naming the argument, what was given and what is allowed.
        """
        if capacity < 1:
            raise WheelsError(f"replay capacity must be at least 1 state, got {capacity}")
        if not 0 <= on_policy_share <= 1:
            raise WheelsError(f"on_policy_share must be in [0, 1], got {on_policy_share}")
        self.capacity = capacity
        self.on_policy_share = on_policy_share
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: dict[bool, deque[Episode]] = {True: deque(), False: deque()}
        self._states = {True: 0, False: 0}

    def __len__(self) -> int:
        """Return the number of episodes held."""
        return sum(len(kept) for kept in self._kept.values())

    @property
    def states(self) -> int:
        """The number of states held, never above `capacity`."""
        return sum(self._states.values())

    def count(self, *, on_policy: bool) -> int:
        """Return the number of episodes held of one kind."""
        return len(self._kept[on_policy])

    def add(self, episodes: Iterable[Episode]) -> None:
        """Add episodes; the oldest are dropped when the buffer is full.

        Raises:
            WheelsError: for an episode that is longer than the whole room.
        """
        for episode in episodes:
            if len(episode) > self.capacity:
                raise WheelsError(
                    f"an episode of {len(episode)} states does not fit a replay of {self.capacity}; raise its capacity"
                )
            while self.states + len(episode) > self.capacity:
                self._drop_oldest(episode)
            self._kept[episode.on_policy].append(episode)
            self._states[episode.on_policy] += len(episode)

    def sample(self, count: int) -> list[Episode]:
        """Draw `count` episodes with replacement, uniformly within each kind, the policy's own first.

        `on_policy_share` of them, rounded by a draw so that it holds on average for any `count`, are the policy's own;
        where one kind is absent, all are of the other.

        Raises:
            WheelsError: where nothing has been added yet.
        """
        if not len(self):
            raise WheelsError("the replay is empty; add episodes before sampling")
        share = self.on_policy_share if self._kept[True] and self._kept[False] else float(bool(self._kept[True]))
        exact = share * count
        rounding = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        own = int(exact) + int(rounding < exact - int(exact))
        return self._draw(True, own) + self._draw(False, count - own)

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes and the generator's state, for `torch.save`."""
        return {
            "on_policy": pack(list(self._kept[True])),
            "off_policy": pack(list(self._kept[False])),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken: the same episodes, and the same draws from here on.

        Raises:
            WheelsError: where it holds more states than this replay's capacity.
        """
        kept = {True: deque(unpack(state["on_policy"])), False: deque(unpack(state["off_policy"]))}
        held = {kind: sum(len(episode) for episode in episodes) for kind, episodes in kept.items()}
        if sum(held.values()) > self.capacity:
            raise WheelsError(f"the saved replay holds {sum(held.values())} states, this one takes {self.capacity}")
        self._kept, self._states = kept, held
        self._generator.set_state(state["generator"])

    def _draw(self, on_policy: bool, count: int) -> list[Episode]:
        kept = self._kept[on_policy]
        if not count:
            return []
        return [kept[i] for i in torch.randint(len(kept), (count,), generator=self._generator).tolist()]

    def _drop_oldest(self, newcomer: Episode) -> None:
        """Drop the oldest episode of the kind that, with `newcomer`, exceeds its share of the capacity most."""
        room = {True: self.on_policy_share * self.capacity, False: (1 - self.on_policy_share) * self.capacity}
        wanted = {kind: self._states[kind] + len(newcomer) * (kind == newcomer.on_policy) for kind in room}
        crowded = max(room, key=lambda kind: wanted[kind] - room[kind])
        kind = crowded if self._kept[crowded] else not crowded
        self._states[kind] -= len(self._kept[kind].popleft())
