"""Text generation as an environment: at each token the agent writes, or calls the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import gymnasium
import numpy as np
import torch

from wheels.data.tasks import Row
from wheels.decoding.step import Step
from wheels.decoding.trace import pieces_of
from wheels.envs.defaults import pair_and_rows
from wheels.envs.episodes import EpisodeBatch, StepResult
from wheels.envs.settings import Settings, SettingsKeywords, Start, draw_start
from wheels.envs.state import EpisodeState
from wheels.envs.views import Observation, action_space, array_of, end_infos, infos_of, observation_space, observe
from wheels.errors import WheelsError, check_choice, check_kind, shown
from wheels.models.pair import Pair


class DeferralEnv(gymnasium.Env[Observation, np.int64]):
    """`wheels/Deferral-v0`: one text an episode, one token a step.

    Observations, infos: `wheels.envs.views`; rewards: `wheels.envs.rewards`; budgets: `wheels.envs.allowance`. The cost
    of a call is `info["cost"]`, apart from the reward. A call that the budget refuses is answered with the student's
    token and flagged in `info["call_refused"]`. For the reward the teacher reads every state, which decoding avoids.

    Args:
        pair: Student, teacher and tokenizer; without it, the embedded pair.
        rows: The data; without a pair, the embedded translation task.
        render_mode: `ansi`: `render` returns the text, the teacher's tokens in brackets.
        **settings: The fields of `wheels.envs.settings.Settings`.

    Raises:
        WheelsError: for an unknown setting, one out of its range, or data that the pair cannot read.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 (as gymnasium declares it)

    def __init__(
        self,
        pair: Pair | None = None,
        rows: Sequence[Row] | None = None,
        *,
        render_mode: str | None = None,
        **settings: Unpack[SettingsKeywords],
    ) -> None:
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        self.settings = Settings.of(settings)
        self.pair, self.rows = pair_and_rows(pair, rows)
        self.render_mode = render_mode
        self.episodes = EpisodeBatch(self.pair, self.rows, self.settings, 1)
        self.observation_space = observation_space(self.pair, self.settings)
        self.action_space = action_space(self.pair, self.settings)
        self.start: Start | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a text.

        Args:
            seed: Seeds the draws of this episode and of those that follow.
            options: What to fix of this episode: `index` of the data's row, `seed` of its tokens, `budget`, `price`; or
                `fork`, a state to go on from (`snapshot`), of any environment with the same pair, rows and settings.

        Raises:
            WheelsError: for an unknown option, one out of its range, or a state that cannot go on here.
        """
        super().reset(seed=seed)
        self.episodes.passes.student.refresh()
        given = dict(options or {})
        state = given.pop("fork", None)
        self.start = draw_start(self.np_random, len(self.rows), self.settings, given)
        self.episodes.begin([0], [self.start if state is None else self._forked(state, given)])
        self.episodes.read()
        return self._shown(self.episodes.empty_result())

    def snapshot(self) -> EpisodeState:
        """Copy the present state, caches of both models included, to be played on from there as often as you like.

        Raises:
            WheelsError: before the first `reset`, or after an episode's end.
        """
        if self.start is None or bool(self.episodes.ended_B[0]):
            raise WheelsError(
                "snapshot() after the end of an episode or before the first: there is no state to go on from"
            )
        return self.episodes.snapshot(0)

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Write one token, by the student, the agent or the teacher.

        Raises:
            WheelsError: before the first `reset`, after an episode's end, or for an action outside the space.
        """
        if self.start is None or bool(self.episodes.ended_B[0]):
            raise WheelsError("step() after the end of an episode or before the first: call reset()")
        if not self.action_space.contains(np.asarray(action.cpu() if isinstance(action, torch.Tensor) else action)):
            raise WheelsError(f"action must be in {self.action_space}, got {shown(action)}")
        device = self.pair.device
        written = self.episodes.write(torch.tensor([int(action)], device=device), torch.tensor([True], device=device))
        self.episodes.read()
        observation, info = self._shown(written)
        ends = bool(written.terminated_B[0]), bool(written.truncated_B[0])
        return observation, float(written.reward_B[0]), *ends, info

    def action_masks(self) -> np.ndarray:
        """Return the actions that make sense now, bool `[A]`, as sb3-contrib asks for them."""
        return array_of(self.episodes.mask_BA()[0])

    @property
    def state(self) -> Step:
        """The state that the next action is taken in, as a rule of `wheels.decoding` sees it (B = 1)."""
        return self.episodes.state

    def render(self) -> str | None:
        """Return the text so far, the teacher's tokens in brackets."""
        if self.render_mode is None or self.start is None:
            return None
        decode, sequence = self.pair.tokenizer.decode, self.episodes.texts.sequence(0)
        pieces = pieces_of(lambda ids: decode(ids, skip_special_tokens=True), sequence.tokens)
        shown = (f"[{piece}]" if called else piece for piece, called in zip(pieces, sequence.by_teacher, strict=True))
        return "".join(shown)

    def _forked(self, state: EpisodeState, options: dict[str, Any]) -> EpisodeState:
        """Return the state to go on from, under the budget, price and seed that `options` fix."""
        if "index" in options:
            raise WheelsError("options fork and index exclude each other: a state has its text")
        check_kind("option fork", state, EpisodeState, "what snapshot() returned")
        self.episodes.origin.check(state.origin)
        return state.under(**options)

    def _shown(self, written: StepResult) -> tuple[Observation, dict[str, Any]]:
        """Return observation and info of the only row."""
        observation = {name: values[0] for name, values in observe(self.episodes).items()}
        common = {name: values[0] for name, values in infos_of(self.episodes, written).items()}
        info = {name: value.item() if isinstance(value, np.generic) else value for name, value in common.items()}
        return observation, {**info, **end_infos(written, 0)}
