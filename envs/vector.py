"""Many texts at once: one pass of the student and one of the teacher for all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from wheels.envs.settings import Settings, SettingsKeywords, Start, draw_start
from wheels.envs.views import Observation, action_space, array_of, end_infos, infos_of, observation_space, observe
from wheels.errors import WheelsError, check_whole, shown
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
        self._generators: list[np.random.Generator] | None = None

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a text in every row.

        Args:
            seed: Row i draws by `seed + i`, or by the i-th of several seeds.
            options: As in the single environment, for all rows, or a sequence with a value for each.
        """
        if seed is not None or self._generators is None:
            self._generators = [seeding.np_random(own)[0] for own in self._seeds(seed)]
        self._begin(list(range(self.num_envs)), options or {})
        self.episodes.read()
        return observe(self.episodes), self._info(self.episodes.empty_result())

    def step(self, actions: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Write one token in every row that goes on, and begin a text in every row that had ended.

        Raises:
            WheelsError: before the first `reset`, or for actions outside the space.
        """
        if self._generators is None:
            raise WheelsError("step() before the first episode: call reset()")
        given = np.asarray(actions)
        actions = given.astype(np.int64) if np.issubdtype(given.dtype, np.integer) else given
        if not self.action_space.contains(actions):
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
        """Let new texts into the rows `slots`."""
        for name, values in options.items():
            if not np.isscalar(values) and len(values) != self.num_envs:
                raise WheelsError(f"option {name} must be one value or {self.num_envs}, got {len(values)}")
        assert self._generators is not None
        starts = []
        for slot in slots:
            own = {name: values if np.isscalar(values) else values[slot] for name, values in options.items()}
            starts.append(draw_start(self._generators[slot], len(self.rows), self.settings, own))
            self.starts[slot] = starts[-1]
        self.episodes.admit(slots, starts)

    def _info(self, written: StepResult) -> dict[str, Any]:
        """Return the infos of all rows, each with a mask of the rows that have it, as gymnasium lays them out."""
        infos: dict[str, Any] = {}
        for name, values in infos_of(self.episodes, written).items():
            infos[name], infos[f"_{name}"] = values, np.ones(self.num_envs, dtype=np.bool_)
        for row in written.texts:
            infos = self._add_info(infos, end_infos(written, row), row)
        return infos
