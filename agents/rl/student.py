"""The full policy: student and gate are trained together, `pi(CALL|s) = g(s)` and `pi(v|s) = (1 - g(s)) q(v|s)`.

The student's own log-probabilities are part of every residual: a token that it writes earns
`u_t = log p(y_t) - log q(y_t) - alpha log(1 - g_t)` (`wheels.agents.gate.token_reward`), so path consistency moves
the student towards the teacher where it writes, and the gate to where it cannot follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from wheels.agents.gate import call_reward, gate_log_probs, token_reward
from wheels.agents.rl.agent import LagrangianAgent, PCLSettings
from wheels.agents.rl.episode import Episode, EpisodeBatch, collate
from wheels.agents.rl.lagrangian import PriceTable
from wheels.decoding.teacher_forcing import read_texts
from wheels.models.pair import Pair
from wheels.policy.features import LOG_FLOOR, features, text_copy_features
from wheels.policy.head import DeferralHead
from wheels.policy.path_consistency import add_terminal, masked_mean


@dataclass(frozen=True)
class StudentSettings:
    """The settings of the student's own training."""

    learning_rate: float = 1e-5
    anchor: float = 0.01
    """Weight of `KL(q_then || q)`, with `q_then` the student that decoded the text: the trust region of Trust-PCL
    (https://arxiv.org/abs/1707.01891) for its tokens; about 0.01 in OREO (Wang et al. 2024)."""


class StudentAgent(LagrangianAgent):
    """A Lagrangian agent that trains the student along with the head.

    Args:
        pair: Both models; the student is trained in place.
        head: The warm start; it is trained in place.
        settings: How the head learns.
        table: The grid and its first prices.
        student: How the student learns.
    """

    def __init__(
        self, pair: Pair, head: DeferralHead, settings: PCLSettings, table: PriceTable, student: StudentSettings
    ) -> None:
        super().__init__(head, settings, table)
        self.pair, self.student = pair, student
        pair.student.requires_grad_(True)
        self.optimizer.add_param_group(
            {"params": list(pair.student.parameters()), "lr": student.learning_rate, "weight_decay": 0.0}
        )

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return everything that is trained: the head and the student."""
        return [*self.head.parameters(), *self.pair.student.parameters()]

    def learn_texts(self, episodes: Sequence[Episode], **options: Any) -> dict[str, float]:
        """Take one gradient step on episodes that carry their texts; see `PCLAgent.learn`."""
        batch = collate(episodes).to(self.pair.device)
        self._log_q_then_BT = batch.log_q_token_BT
        return self.learn(self._seen_by_student(batch, episodes), **options)

    def _seen_by_student(self, batch: EpisodeBatch, episodes: Sequence[Episode]) -> EpisodeBatch:
        """Return the batch with the features and token log-probabilities of the current student."""
        logits, hidden = read_texts(
            self.pair, self.pair.student, [e.source_ids for e in episodes], [e.token_ids for e in episodes]
        )
        features_BTF = torch.zeros_like(batch.features_BTF)
        log_q_BT = torch.zeros_like(batch.log_q_token_BT)
        rows_f, rows_q = list(features_BTF), list(log_q_BT)
        for row, episode in enumerate(episodes):
            steps = len(episode)
            log_q_TV = logits[row][:steps].log_softmax(-1)
            position_T = torch.arange(steps, device=log_q_TV.device)
            source_T = torch.full_like(position_T, len(episode.source_ids))
            places = text_copy_features(episode.source_ids, episode.token_ids)
            seen_TF = features(hidden[row][:steps], log_q_TV, position_T, source_T, places)
            token_T1 = torch.tensor(episode.token_ids, device=log_q_TV.device)[:, None]
            short = features_BTF.shape[1] - steps
            rows_f[row] = torch.nn.functional.pad(seen_TF, (0, 0, 0, short))
            chosen_T = log_q_TV.gather(1, token_T1).squeeze(1).clamp(min=LOG_FLOOR)
            rows_q[row] = torch.nn.functional.pad(chosen_T, (0, short))
        return replace(batch, features_BTF=torch.stack(rows_f), log_q_token_BT=torch.stack(rows_q))

    def loss(self, batch: EpisodeBatch, *, critic_only: bool = False) -> tuple[torch.Tensor, dict[str, float]]:
        """Compute the head's loss and the student's anchor.

        The gate and the critic read the student's features without a gradient into it: what moves the student is the
        log-ratio of its own tokens, and the anchor. The gate's own loss keeps the greedy regret: outputs are greedy.
        """
        head_batch = replace(batch, features_BTF=batch.features_BTF.detach())
        if critic_only:
            head_batch = replace(head_batch, log_q_token_BT=batch.log_q_token_BT.detach())
        loss, figures = super().loss(head_batch, critic_only=critic_only)
        written_BT = batch.mask_BT & ~batch.call_BT
        ratio_BT = batch.log_q_token_BT - self._log_q_then_BT
        # (r - 1) - log r with r = q / q_then: an unbiased estimate of the divergence that is never negative.
        anchor = masked_mean(torch.expm1(ratio_BT.clamp(max=5.0)) - ratio_BT, written_BT)
        figures["anchor"] = float(anchor.detach())
        return loss + self.student.anchor * anchor, figures

    def _rewards(self, batch: EpisodeBatch, logit_BT: torch.Tensor, price_BT: torch.Tensor) -> torch.Tensor:
        """Compute `u_t` of the full policy."""
        alpha = self.settings.alpha
        log_write_BT, log_call_BT = gate_log_probs(logit_BT)
        write_BT = token_reward(batch.log_p_token_BT, batch.log_q_token_BT, log_write_BT, alpha)
        call_BT = call_reward(price_BT, batch.cost_BT, log_call_BT, alpha)
        u_t = torch.where(batch.call_BT, call_BT, write_BT)
        return add_terminal(u_t, batch.terminal_reward_B, batch.mask_BT)

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs, the student included."""
        return {**super().state_dict(), "student": self.pair.student.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        super().load_state_dict(state)
        self.pair.student.load_state_dict(state["student"])
