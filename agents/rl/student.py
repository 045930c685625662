"""The student, trained along: its tokens are taught on the states that the constrained policy visits.

The policy `pi(CALL|s) = g(s, b)`, `pi(v|s) = (1 - g(s, b)) q(v|s)` writes training texts under each budget of the grid.
With the gate held, the student minimises on exactly these states what the policy loses where the student writes:

    L = sum_t (1 - g_t) D(p_t, q_t) / sum_t (1 - g_t)

where D is a divergence of `wheels pretrain`. At g = 0 everywhere that is distillation on the student's own greedy texts
(GKD, Agarwal et al. 2023, https://arxiv.org/abs/2306.13649); a state that the teacher is sure to be called in teaches
nothing. The gate is then trained anew on the student that there is now, and so in turns. Left out: a gradient through
the states' distribution, as GKD leaves it out.

The teacher reads each text once: its likeliest tokens and the mass of the rest are kept, so that passes over the texts
cost no more teacher tokens (`wheels.distillation.topk_losses`: a lower bound of D, equal to it where all are kept).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from wheels.agents.regression.fit import FitConfig, Progress, fit
from wheels.agents.rl.paths import Logit, play
from wheels.agents.seed_run import SeedRun
from wheels.decoding.teacher_forcing import read_texts, teacher_shards
from wheels.distillation.learning_rates import set_query_rate
from wheels.distillation.teacher_cache import Shard, distribution_of
from wheels.distillation.topk_losses import TopKDistribution, topk_divergence
from wheels.envs.settings import Start
from wheels.envs.vector import DeferralVectorEnv
from wheels.models.pair import Pair

CHUNK = 1024
"""Texts that are written between two writes to disk."""
BATCH = 32
"""Texts in a gradient step."""
HELD = 10
"""One text in so many is not taught: the divergences that are noted are of these."""


@dataclass(frozen=True)
class Visit:
    """One text of the policy: the states before its T tokens, and what the teacher says in each."""

    source: list[int]
    text: list[int]
    logit_T: torch.Tensor
    """The gate's logit z in each state."""
    teacher: Shard
    """The teacher's likeliest tokens there, as a cache of `wheels pretrain` keeps them."""


def weighted_divergence(
    student_logits_NV: torch.Tensor, teacher: TopKDistribution, call_logit_N: torch.Tensor, objective: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `sum_n (1 - g_n) D(p_n, q_n)`, nats, and `sum_n (1 - g_n)`: two scalars.

    Args:
        student_logits_NV: Logits of q in N states.
        teacher: p there.
        call_logit_N: The gate's logits z, `g = sigmoid(z)`.
        objective: Names D: `kl`, `rkl` or `jsd`.
    """
    assert student_logits_NV.shape[:1] == call_logit_N.shape, (student_logits_NV.shape, call_logit_N.shape)
    write_N = torch.sigmoid(-call_logit_N)
    return (write_N * topk_divergence(student_logits_NV, teacher, objective)).sum(), write_N.sum()


def visits_loss(pair: Pair, visits: Sequence[Visit], objective: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `weighted_divergence` of the present student over all states of some texts, from one pass of it."""
    logits, _ = read_texts(pair, pair.student, [each.source for each in visits], [each.text for each in visits])
    shard = {name: torch.cat([each.teacher[name] for each in visits]).to(pair.device) for name in visits[0].teacher}
    call_logit_N = torch.cat([each.logit_T for each in visits]).to(pair.device)
    student_logits_NV = torch.cat([logits_WV[:-1] for logits_WV in logits])
    return weighted_divergence(student_logits_NV, distribution_of(shard, 1.0, 0), call_logit_N, objective)


@dataclass(frozen=True)
class Teaching(FitConfig):
    """How a student is taught: AdamW with a OneCycle schedule."""

    epochs: int = 2
    batch: int = BATCH
    """Texts in a gradient step."""
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    objective: str = "kl"
    """`kl`, `rkl` or `jsd`."""


def teach(pair: Pair, visits: Sequence[Visit], settings: Teaching, progress: Progress | None = None) -> None:
    """Minimise L over the texts in place, with the student's own dropout; T5's queries learn at their own rate.

    Args:
        pair: Whose student learns; its teacher is not read.
        visits: Texts.
        settings: How.
        progress: Called with the loss of each step.

    Raises:
        WheelsError: where the loss, or what it leads to, is no finite number.
    """
    student = pair.student

    def loss(some: torch.Tensor) -> torch.Tensor:
        lost, weight = visits_loss(pair, [visits[place] for place in some.tolist()], settings.objective)
        return lost / weight.clamp(min=torch.finfo(weight.dtype).tiny)

    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        student.requires_grad_(True).train()
        try:
            rates = partial(set_query_rate, model=student)
            fit(list(student.parameters()), loss, len(visits), settings, progress, name="student", set_rates=rates)
        finally:
            student.eval()
            student.zero_grad()


@torch.no_grad()
def mean_divergence(pair: Pair, visits: Sequence[Visit], objective: str) -> float:
    """Compute L over texts, nats."""
    parts = [visits_loss(pair, visits[start : start + BATCH], objective) for start in range(0, len(visits), BATCH)]
    lost, weight = (float(sum(each)) for each in zip(*parts, strict=True))
    return lost / max(weight, torch.finfo(torch.float32).tiny)


def visit(pair: Pair, env: DeferralVectorEnv, starts: Sequence[Start], logit: Logit, kept: int) -> list[Visit]:
    """Write a text from each start under the policy, and let the teacher read each of them once.

    Args:
        pair: Both models.
        env: In its factorised form.
        starts: Texts, budgets, prices and seeds.
        logit: The gate.
        kept: The teacher's likeliest tokens that are kept; of a smaller vocabulary, all.
    """
    paths, _ = play(env, starts, logit)
    sources = [env.episodes.sources[path.start.index].source for path in paths]
    texts, kept = [path.token_T for path in paths], min(kept, pair.vocab_size)
    teacher = teacher_shards(pair, sources, texts, kept, env.num_envs)
    return [
        Visit(list(source), text, torch.tensor(path.logit_T), shard)
        for source, text, path, shard in zip(sources, texts, paths, teacher, strict=True)
    ]


def take_turn(run: SeedRun, env: DeferralVectorEnv, starts: Sequence[Start], logit: Logit) -> None:
    """Write the texts of a turn and teach the student on them; what is done already is read.

    Args:
        run: The seed's run, in one of its turns.
        env: The environment, with the student of this turn.
        starts: Texts, budgets, prices and seeds.
        logit: The gate, which does not change meanwhile.
    """
    student = run.pair.student

    def write(part: int) -> Mapping[str, Any]:
        some = starts[part * CHUNK : (part + 1) * CHUNK]
        return {"visits": [vars(each) for each in visit(run.pair, env, some, logit, run.config.cached_logits)]}

    def learn(_: int) -> Mapping[str, torch.Tensor]:
        run.note(_taught(run, [Visit(**each) for part in parts for each in part["visits"]]))
        return {name: value.cpu() for name, value in student.state_dict().items()}

    parts = run.parts("texts", -(-len(starts) // CHUNK), write, f"texts of the student's turn {run.turn}")
    student.load_state_dict(run.parts("student", 1, learn)[0])


def _taught(run: SeedRun, visits: list[Visit]) -> dict[str, float]:
    """Teach the student on nine texts in ten, and return what was measured on the others, or on all of a few."""
    config, pair = run.config, run.pair
    settings = Teaching(
        epochs=config.student_epochs,
        learning_rate=config.student_learning_rate,
        seed=run.draws(0),
        objective=config.student_objective,
    )
    held = visits[HELD - 1 :: HELD] or visits
    fitted = [each for place, each in enumerate(visits) if place % HELD != HELD - 1]
    before = mean_divergence(pair, held, settings.objective)
    steps = settings.epochs * -(-len(fitted) // settings.batch)
    with tqdm(total=steps, desc=f"student, turn {run.turn}", unit="step", file=sys.stderr, disable=None) as bar:
        teach(pair, fitted, settings, lambda loss: bar.update())
    call_logit_N = torch.cat([each.logit_T for each in visits])
    return {
        "teacher_tokens": len(call_logit_N),
        "written": float(torch.sigmoid(-call_logit_N).mean()),
        "divergence_before": before,
        "divergence": mean_divergence(pair, held, settings.objective),
    }
