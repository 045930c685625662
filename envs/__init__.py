"""Text generation as a Gymnasium environment: importing this registers `wheels/Deferral-v0`, without loading torch."""

from __future__ import annotations

import gymnasium

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
