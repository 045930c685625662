"""Many texts at once: one pass of the student and one of the teacher for all rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Unpack

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from wheels.data.tasks import Row
from wheels.decoding.step import Step
from wheels.envs.defaults import pair_and_rows
from wheels.envs.episodes import EpisodeBatch, StepResult
from wheels.envs.settings import Settings, SettingsKeywords, Start, check_start, draw_start
from wheels.envs.state import EpisodeState
from wheels.envs.views import Observation, action_space, array_of, end_infos, infos_of, observation_space, observe
from wheels.errors import WheelsError, check_kind, check_whole, shown
from wheels.models.pair import Pair


class DeferralVectorEnv(VectorEnv[Observation, np.ndarray, np.ndarray]):
    """`wheels/Deferral-v0` for `num_envs` texts: row i is the single environment that was seeded with `seed + i`.

    The step after a row's end ignores its action and begins its next text (`AutoresetMode.NEXT_STEP`), with reward 0
    and `info["author"]` "": leave such steps out of what an agent learns from.

    Args:
        num_envs: Rows, B.
        pair: Student, teacher and tokenizer; without it, the embedded pair.
        rows: The data; without a pair, the embedded translation task.
        **settings: The fields of `wheels.envs.settings.Settings`.

    Raises:
        WheelsError: for an unknown setting, one out of its range, or data that the pair cannot read.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (as gymnasium declares it)

    def __init__(
        self,
        num_envs: int = 1,
        pair: Pair | None = None,
        rows: Sequence[Row] | None = None,
        **settings: Unpack[SettingsKeywords],
    ) -> None:
        self.num_envs = check_whole("num_envs", num_envs, 1)
        self.settings = Settings.of(settings)
        self.pair, self.rows = pair_and_rows(pair, rows)
        self.episodes = EpisodeBatch(self.pair, self.rows, self.settings, num_envs)
        self.single_observation_space = observation_space(self.pair, self.settings)
        self.single_action_space = action_space(self.pair, self.settings)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.starts: list[Start | None] = [None] * num_envs
        """How the episode of each row began; None in a row that is idle."""
        self.numbers = np.full(num_envs, -1)
        """Which of the texts that were fed each row writes (`feed`); -1 for none of them."""
        self._queue: deque[tuple[int, Start | EpisodeState]] | None = None
        self._fed = 0
        self._generators: list[np.random.Generator] | None = None

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a text in every row; of those that were fed, where `feed` was called.

        Args:
            seed: Row i draws by `seed + i`, or by the i-th of several seeds.
            options: As in the single environment, for all rows, or a sequence with a value for each.
        """
        if seed is not None or self._generators is None:
            self._generators = [seeding.np_random(own)[0] for own in self._seeds(seed)]
        if options and self._queue is not None:
            raise WheelsError("what was fed has its own index, seed, budget and price: call reset() without options")
        self.episodes.stop()
        self.episodes.passes.student.refresh()
        self._begin(list(range(self.num_envs)), options or {})
        return self._shown()

    def step(self, actions: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Write one token in every row that goes on, and begin a text in every row that had ended.

        Raises:
            WheelsError: before the first `reset`, or for actions outside the space.
        """
        if self._generators is None:
            raise WheelsError("step() before the first episode: call reset()")
        given = np.asarray(actions)
        whole = given.dtype.kind in "biu"  # older spaces hold floats too
        actions = given.astype(np.int64) if whole else given
        if not whole or not self.action_space.contains(actions):
            raise WheelsError(f"actions must be in {self.action_space}, got {shown(given.tolist())}")
        active_B = ~self.episodes.ended_B
        written = self.episodes.write(torch.tensor(actions, device=self.pair.device), active_B)
        self._begin((~active_B).nonzero()[:, 0].tolist(), {})
        self.episodes.read()
        reward_B = array_of(written.reward_B, np.float64)
        terminated_B, truncated_B = array_of(written.terminated_B), array_of(written.truncated_B)
        return observe(self.episodes), reward_B, terminated_B, truncated_B, self._info(written)

    def action_masks(self) -> np.ndarray:
        """Return the actions that make sense now, bool `[B, A]`."""
        return array_of(self.episodes.mask_BA())

    @property
    def state(self) -> Step:
        """The states that the next actions are taken in, as a rule of `wheels.decoding` sees them."""
        return self.episodes.state

    def feed(self, starts: Iterable[Start | EpisodeState] | None) -> range:
        """Queue texts, and states to go on from: rows begin these from now on, in order, not texts drawn at random.

        A row takes the next one at `reset`, or at the step after its end. Where none is left it is idle: it ignores its
        actions, no model reads it, and its infos are those of such a step. `numbers` says which one each row writes.

        Args:
            starts: What comes behind all that was fed before; None: the queue is dropped, and texts are drawn again.

        Returns:
            The numbers of these starts, counted from the first one that was ever fed.

        Raises:
            WheelsError: for a start out of its range, or a state of an environment with another pair, rows or settings.
        """
        if starts is None:
            self._queue, starts = None, ()
        elif self._queue is None:
            self._queue = deque()
        first, checked = self._fed, [self._checked(start) for start in starts]
        self._fed += len(checked)
        if self._queue is not None:
            self._queue.extend(zip(range(first, self._fed), checked, strict=True))
        return range(first, self._fed)

    @property
    def waiting(self) -> int:
        """How many texts that were fed no row has begun yet."""
        return len(self._queue or ())

    @property
    def active_B(self) -> torch.Tensor:
        """The rows whose next action counts, bool: not those whose text has just ended, nor those that are idle."""
        return ~self.episodes.ended_B

    def snapshot(self, rows: Iterable[int]) -> list[EpisodeState]:
        """Copy the present states of some rows, to be played on from there by `fork` or `feed`, as often as you like.

        Raises:
            WheelsError: for a row that there is not, or one that does not wait for an action.
        """
        chosen = self._row_list(rows)
        if ended := [row for row in chosen if bool(self.episodes.ended_B[row])]:
            raise WheelsError(f"row {ended[0]} has no state to go on from: its text has ended, or none has begun")
        return [self.episodes.snapshot(row) for row in chosen]

    def fork(self, rows: Iterable[int], states: Iterable[EpisodeState]) -> tuple[Observation, dict[str, Any]]:
        """Let rows go on from states, whatever they were doing, and return what `reset` would; the others stay.

        Each state may be taken by several rows, of any environment with the same pair, rows and settings. Nothing is
        read again. The same actions lead to the same tokens: a token's draw depends on its seed, text and position.

        Raises:
            WheelsError: for a row that there is not, or as `feed`.
        """
        rows, states = self._row_list(rows), list(states)
        if len(rows) != len(states):
            raise WheelsError(f"fork needs a state for each of {len(rows)} rows, got {len(states)}")
        if self._generators is None:
            raise WheelsError("fork() before the first episode: call reset()")
        for state in states:
            check_kind("state", state, EpisodeState, "what snapshot() returned")
            self.episodes.origin.check(state.origin)
        self._enter(rows, states)
        return self._shown()

    def _seeds(self, seed: int | Sequence[int] | None) -> Sequence[int | None]:
        """Return a seed for each row."""
        if seed is None:
            return [None] * self.num_envs
        for one in seed if isinstance(seed, Sequence) else [seed]:
            check_whole("seed", one)
        if isinstance(seed, int | np.integer):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise WheelsError(f"seed must be one integer or {self.num_envs}, got {len(seed)}")
        return list(seed)

    def _begin(self, slots: list[int], options: Mapping[str, Any]) -> None:
        """Begin in the rows `slots` what was fed, or texts drawn at random."""
        for name, values in options.items():
            if not np.isscalar(values) and len(values) != self.num_envs:
                raise WheelsError(f"option {name} must be one value or {self.num_envs}, got {len(values)}")
        if self._queue is not None:
            fed = [self._queue.popleft() for _ in slots[: len(self._queue)]]
            self._enter(slots, [start for _, start in fed], [number for number, _ in fed])
            return
        assert self._generators is not None
        starts = []
        for slot in slots:
            own = {name: values if np.isscalar(values) else values[slot] for name, values in options.items()}
            starts.append(draw_start(self._generators[slot], len(self.rows), self.settings, own))
        self._enter(slots, starts)

    def _enter(self, slots: list[int], starts: Sequence[Start | EpisodeState], numbers: Sequence[int] = ()) -> None:
        """Begin `starts` in the first of the rows `slots`; the others are idle."""
        for slot, start, number in zip_longest(slots, starts, numbers):
            self.starts[slot] = start.start if isinstance(start, EpisodeState) else start
            self.numbers[slot] = -1 if number is None else number
        self.episodes.begin(slots[: len(starts)], starts)

    def _checked(self, start: Start | EpisodeState) -> Start | EpisodeState:
        """Return what can be begun here; raise a `WheelsError` for anything else."""
        if isinstance(start, EpisodeState):
            self.episodes.origin.check(start.origin)
            return start
        return check_start(start, len(self.rows))

    def _row_list(self, rows: Iterable[int]) -> list[int]:
        """Return rows as a list; raise a `WheelsError` for one that there is not, or twice."""
        found = [check_whole("row", row, 0, self.num_envs - 1) for row in rows]
        if len(set(found)) < len(found):
            raise WheelsError(f"rows must be different, got {found}")
        return found

    def _shown(self) -> tuple[Observation, dict[str, Any]]:
        """Bring the models up to date, and return what an episode's beginning shows."""
        self.episodes.read()
        return observe(self.episodes), self._info(self.episodes.empty_result())

    def _info(self, written: StepResult) -> dict[str, Any]:
        """Return the infos of all rows, each with a mask of the rows that have it, as gymnasium lays them out."""
        infos: dict[str, Any] = {}
        for name, values in infos_of(self.episodes, written).items():
            infos[name], infos[f"_{name}"] = values, np.ones(self.num_envs, dtype=np.bool_)
        for row in written.texts:
            infos = self._add_info(infos, end_infos(written, row), row)
        return infos
