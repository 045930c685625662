"""Agents that learn when to call the teacher: path consistency on forked texts, and prices for budgets."""

from typing import TYPE_CHECKING

from wheels.lazy import lazy

if TYPE_CHECKING:
    from wheels.agents.config import TrainConfig as TrainConfig
    from wheels.agents.rl.agent import LagrangianAgent as LagrangianAgent
    from wheels.agents.rl.agent import PCLAgent as PCLAgent
    from wheels.agents.rl.agent import PCLSettings as PCLSettings
    from wheels.agents.rl.agent import fork_residuals as fork_residuals
    from wheels.agents.rl.lagrangian import PriceTable as PriceTable
    from wheels.agents.rl.paths import Forks as Forks
    from wheels.agents.rl.paths import Path as Path
    from wheels.agents.rl.paths import play as play
    from wheels.policy.head import DeferralHead as DeferralHead
    from wheels.policy.head import HeadConfig as HeadConfig
else:
    __all__, __getattr__, __dir__ = lazy(__name__)
