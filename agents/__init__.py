"""Agents that learn when to call the teacher: path consistency, prices for budgets, episodes and their replay."""

from typing import TYPE_CHECKING

from wheels.lazy import lazy

if TYPE_CHECKING:
    from wheels.agents.config import TrainConfig as TrainConfig
    from wheels.agents.gate import both_action_residuals as both_action_residuals
    from wheels.agents.gate import gain as gain
    from wheels.agents.rl.agent import LagrangianAgent as LagrangianAgent
    from wheels.agents.rl.agent import PCLAgent as PCLAgent
    from wheels.agents.rl.agent import PCLSettings as PCLSettings
    from wheels.agents.rl.episode import Episode as Episode
    from wheels.agents.rl.episode import EpisodeBatch as EpisodeBatch
    from wheels.agents.rl.episode import collate as collate
    from wheels.agents.rl.lagrangian import PriceTable as PriceTable
    from wheels.agents.rl.replay import Replay as Replay
    from wheels.agents.rl.rollout import Behaviour as Behaviour
    from wheels.agents.rl.rollout import GateRule as GateRule
    from wheels.agents.rl.rollout import roll_out as roll_out
    from wheels.agents.rl.student import StudentAgent as StudentAgent
    from wheels.agents.rl.student import StudentSettings as StudentSettings
    from wheels.policy.head import DeferralHead as DeferralHead
    from wheels.policy.head import HeadConfig as HeadConfig
    from wheels.policy.path_consistency import pcl_loss as pcl_loss
    from wheels.policy.path_consistency import single_step_residuals as single_step_residuals
    from wheels.policy.path_consistency import suffix_residuals as suffix_residuals
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "wheels.agents.config": ("TrainConfig",),
            "wheels.agents.gate": ("both_action_residuals", "gain"),
            "wheels.agents.rl.agent": ("LagrangianAgent", "PCLAgent", "PCLSettings"),
            "wheels.agents.rl.episode": ("Episode", "EpisodeBatch", "collate"),
            "wheels.agents.rl.lagrangian": ("PriceTable",),
            "wheels.agents.rl.replay": ("Replay",),
            "wheels.agents.rl.rollout": ("Behaviour", "GateRule", "roll_out"),
            "wheels.agents.rl.student": ("StudentAgent", "StudentSettings"),
            "wheels.policy.head": ("DeferralHead", "HeadConfig"),
            "wheels.policy.path_consistency": ("pcl_loss", "single_step_residuals", "suffix_residuals"),
        },
    )
