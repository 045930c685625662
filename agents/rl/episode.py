"""Episodes: decoded sentences with the features of each state, and padded batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, eq=False)
class Episode:
    """One decoded sentence of T >= 1 steps: at each a state, a decision and the appended token.

    Both decisions' immediate rewards are known at every state: `regret_T` for episodes, `cost_T` for a call.
    """

    features_TF: torch.Tensor
    """The student's view of each state, float32."""
    final_features_F: torch.Tensor
    """The view of the state after the last step, float32: gives a truncated text's value; zeros if it ended."""
    call_T: torch.Tensor
    """Whether the teacher was called, bool."""
    regret_T: torch.Tensor
    """max_v log p(v) - log p(argmax q), >= 0, nats, at every state, float32."""
    log_p_token_T: torch.Tensor
    """The teacher's log-probability of the token that was appended, float32."""
    log_q_token_T: torch.Tensor
    """The student's, float32."""
    call_logit_T: torch.Tensor
    """The call logit of the policy that decoded, float32; what a trust region or a look at staleness compares with."""
    cost_T: torch.Tensor
    """What a call costs at each state, whether made or not, >= 0, float32; 1 where cost is teacher tokens."""
    budget: float
    """The teacher budget given to the policy, in [0, 1]."""
    price: float
    """The price in force while decoding, nats per unit of cost; training recomputes rewards with its own price."""
    terminated: bool
    """True where the text ended by itself, false where the limit cut it."""
    terminal_reward: float = 0.0
    """Reward for the whole text, nats."""
    on_policy: bool = True
    """True where the policy decoded; false for references, the teacher's own texts and random decisions."""
    source_ids: tuple[int, ...] = ()
    """Tokens of the source or prompt; kept where the student itself is trained, else empty."""
    token_ids: tuple[int, ...] = ()
    """The T tokens that were appended; likewise."""

    def __post_init__(self) -> None:
        """Check shapes, types and signs.

        Raises:
            ValueError: naming the field, what was given and what is allowed.
        """
        if self.features_TF.ndim != 2 or not len(self.features_TF):
            raise ValueError(f"features_TF must be [T, F] with T >= 1, got {tuple(self.features_TF.shape)}")
        steps, width = self.features_TF.shape
        for name, shape in _shapes(steps, width).items():
            tensor = getattr(self, name)
            dtype = torch.bool if name == "call_T" else torch.float32
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise ValueError(
                    f"{name} must be {dtype} of shape {shape}, got {tensor.dtype} of {tuple(tensor.shape)}"
                )
        for name in ("regret_T", "cost_T"):
            if not bool((getattr(self, name) >= 0).all()):
                raise ValueError(f"{name} must be >= 0 at every state, got {float(getattr(self, name).min())}")

    def __len__(self) -> int:
        """Return T, the number of decisions."""
        return len(self.call_T)

    @property
    def use(self) -> float:
        """The share of steps that the teacher wrote."""
        return float(self.call_T.float().mean())


@dataclass(frozen=True, eq=False)
class EpisodeBatch:
    """A batch of episodes, right-padded with zeros: every field of `Episode` but the texts, stacked."""

    features_BTF: torch.Tensor
    """float32."""
    final_features_BF: torch.Tensor
    """float32; zeros where the text ended."""
    call_BT: torch.Tensor
    """bool."""
    regret_BT: torch.Tensor
    """nats, float32."""
    log_p_token_BT: torch.Tensor
    """nats, float32."""
    log_q_token_BT: torch.Tensor
    """nats, float32."""
    call_logit_BT: torch.Tensor
    """float32."""
    cost_BT: torch.Tensor
    """float32."""
    mask_BT: torch.Tensor
    """True at real steps, bool; each row's real steps come first."""
    budget_B: torch.Tensor
    """float32."""
    price_B: torch.Tensor
    """nats per unit of cost, float32."""
    terminated_B: torch.Tensor
    """bool."""
    terminal_reward_B: torch.Tensor
    """nats, float32."""
    on_policy_B: torch.Tensor
    """bool."""

    def __len__(self) -> int:
        """Return B."""
        return len(self.mask_BT)

    def to(self, device: torch.device | str) -> EpisodeBatch:
        """Return the batch with every tensor on `device`."""
        return EpisodeBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def collate(episodes: Sequence[Episode]) -> EpisodeBatch:
    """Pad episodes to the longest of them.

    Raises:
        ValueError: for no episodes, or episodes of different feature widths.
    """
    if not episodes:
        raise ValueError("collate needs at least one episode, got none")
    widths = sorted({episode.features_TF.shape[1] for episode in episodes})
    if len(widths) > 1:
        raise ValueError(f"episodes of one batch must have equally wide features, got widths {widths}")
    padded = {name.replace("_T", "_BT"): _pad(episodes, name) for name in _PER_STEP}
    scalars = {
        f"{name}_B": torch.tensor([getattr(episode, name) for episode in episodes], dtype=dtype)
        for name, dtype in _PER_EPISODE.items()
    }
    length_B = torch.tensor([len(episode) for episode in episodes])
    mask_BT = torch.arange(int(length_B.max())) < length_B[:, None]
    final_BF = torch.stack([episode.final_features_F for episode in episodes])
    return EpisodeBatch(final_features_BF=final_BF, mask_BT=mask_BT, **padded, **scalars)


def pack(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return episodes as a few long tensors, for a checkpoint; `unpack` gives them back exactly."""
    packed: dict[str, Any] = {"length": torch.tensor([len(episode) for episode in episodes], dtype=torch.int64)}
    for name in (*_PER_STEP, "final_features_F"):
        tensors = [getattr(episode, name) for episode in episodes]
        join = torch.stack if name == "final_features_F" else torch.cat
        packed[name] = join(tensors) if tensors else torch.empty(0)
    for name in (*_PER_EPISODE, *_TEXTS):
        packed[name] = [getattr(episode, name) for episode in episodes]
    return packed


def unpack(packed: Mapping[str, Any]) -> list[Episode]:
    """Return the episodes that `pack` joined."""
    lengths = packed["length"].tolist()
    if not lengths:
        return []
    columns = {name: [part.clone() for part in packed[name].split(lengths)] for name in _PER_STEP}
    columns["final_features_F"] = [row.clone() for row in packed["final_features_F"]]
    columns.update({name: packed[name] for name in (*_PER_EPISODE, *_TEXTS)})
    return [Episode(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


_PER_STEP = (
    "features_TF",
    "call_T",
    "regret_T",
    "log_p_token_T",
    "log_q_token_T",
    "call_logit_T",
    "cost_T",
)
_PER_EPISODE = {
    "budget": torch.float32,
    "price": torch.float32,
    "terminated": torch.bool,
    "terminal_reward": torch.float32,
    "on_policy": torch.bool,
}

_TEXTS = ("source_ids", "token_ids")


def _shapes(steps: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape that each tensor of an episode must have."""
    shapes: dict[str, tuple[int, ...]] = {name: (steps,) for name in _PER_STEP}
    return {**shapes, "features_TF": (steps, width), "final_features_F": (width,)}


def _pad(episodes: Sequence[Episode], name: str) -> torch.Tensor:
    """Return one per-step field of all episodes, padded with zeros."""
    return pad_sequence([getattr(episode, name) for episode in episodes], batch_first=True)
