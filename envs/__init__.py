"""Text generation as a Gymnasium environment: importing this registers `wheels/Deferral-v0`, without loading torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium

from wheels.lazy import lazy

ENV_ID = "wheels/Deferral-v0"


def register() -> None:
    """Tell gymnasium of `wheels/Deferral-v0`, once."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            id=ENV_ID,
            entry_point="wheels.envs.deferral:DeferralEnv",
            vector_entry_point="wheels.envs.vector:DeferralVectorEnv",
        )


register()

if TYPE_CHECKING:
    from wheels.envs.deferral import DeferralEnv as DeferralEnv
    from wheels.envs.records import EpisodeRecord as EpisodeRecord
    from wheels.envs.settings import Settings as Settings
    from wheels.envs.settings import Start as Start
    from wheels.envs.state import EpisodeState as EpisodeState
    from wheels.envs.vector import DeferralVectorEnv as DeferralVectorEnv
else:
    __all__, __getattr__, __dir__ = lazy(__name__, "ENV_ID", "register")
