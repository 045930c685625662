"""One seed's training: the warm start, then rounds in which the policy writes, is forked, and learns.

Everything is drawn anew for a seed: states, texts, forks, and the order in which they are learned.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from wheels.agents.config import TrainConfig
from wheels.agents.regression.paired import OF_A_CORPUS
from wheels.agents.regression.spans import fit_spans, span_targets
from wheels.agents.regression.states import collect
from wheels.agents.regression.trained_baselines import States, fit_baseline
from wheels.agents.regression.warm_start import explained, fit_regret
from wheels.agents.rl.agent import LagrangianAgent, PCLAgent, PCLSettings, price_for, share_of_states, starting_prices
from wheels.agents.rl.lagrangian import PriceTable, non_increasing
from wheels.agents.rl.paths import Forks, at_random, play
from wheels.agents.rl.paths import Path as Written
from wheels.agents.rl.student import take_turn
from wheels.agents.runlog import Checkpoints, chunks_are_whole, reading, shared_chunks
from wheels.agents.seed_run import SeedRun, environment_of
from wheels.data.tasks import Row
from wheels.decoding.methods.method import teacher_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.remote.pair import writing_whole_texts
from wheels.decoding.sampling import Sampling
from wheels.decoding.streaming import decode
from wheels.envs.settings import Start
from wheels.envs.vector import DeferralVectorEnv
from wheels.finite import check_finite
from wheels.models.pair import Pair
from wheels.policy.head import DeferralHead
from wheels.policy.span_head import SpanHead

log = logging.getLogger("wheels")

CHUNK = 1024
"""Texts that are written between two writes to disk."""
TURN_STATES = 50_000
"""States that the gate of a student's turn is fitted to, at most: it says where the texts go, and is fitted again."""
SETTLED = 0.01
"""How near the use of the greedy gate must come to each budget."""
SETTLE_TEXTS = 2000
"""Texts that it is measured on, at most."""
SETTLE_TRIES = 6
"""Times that the prices are moved, at most."""
SETTLE_ROUND = 1000
"""The number of the first draw of these texts."""
TRIAL_ROUND = 3000
"""The number of the draw of the texts that say how much a call buys."""
TRIAL_TEXTS = 64
"""How many these are, at most."""
TRIAL_USE = 0.3
"""The share of their states that call."""
SPAN_ROUND = 2000
"""The number of the draw of the texts that are forked with spans."""
SPAN_STATES = 4
"""States of such a text that are forked at most: each is written once for each span."""
NEVER = 10**9
"""A round that there is not."""
UNSETTLED = (
    "after {tries} tries the prices do not keep each budget on training texts (use {use}); calibration will, on the "
    "validation rows"
)

Use = dict[float, float]
"""A figure for each budget."""


def with_pseudo_references(
    pair: Pair, rows: Sequence[Row], config: TrainConfig, folder: Path, accelerator: Accelerator
) -> list[Row]:
    """Return the rows, each with texts that were sampled from the teacher as further references.

    A reference is one good text of many. Whether a call helps towards it is mostly luck; the mean over several texts of
    the same meaning has less of it (as in minimum Bayes risk decoding, Kumar and Byrne 2004).
    """
    count = config.pseudo_references
    if not count:
        return list(rows)
    starts = range(0, len(rows), CHUNK)

    def make(number: int) -> dict[str, Any]:
        sources = [row.source for row in rows[starts[number] : starts[number] + CHUNK]]
        with writing_whole_texts(pair):
            samples = [
                decode(
                    pair,
                    sources,
                    teacher_only(),
                    DecodeParams(max_new_tokens=config.max_new_tokens, sampling=Sampling(temperature=1.0), seed=seed),
                    batch_size=config.batch_size,
                )
                for seed in range(config.seed * count, (config.seed + 1) * count)
            ]
        return {"texts": [[trace.text for trace in several] for several in zip(*samples, strict=True)]}

    parts = shared_chunks(folder, "references", range(len(starts)), make, accelerator, "pseudo-references")
    texts = [several for part in parts for several in part["texts"]]
    return [replace(row, references=(*row.references, *several)) for row, several in zip(rows, texts, strict=True)]


class Trainer:
    """The stages of one seed's training."""

    def __init__(self, run: SeedRun) -> None:
        self.run, self.config = run, run.config
        self.checkpoints = Checkpoints(run.folder, run.accelerator)
        self.prices: list[float] = []
        self.spans: SpanHead | None = None
        """What spans gain, where that is learned."""
        self.judged = 0

    def train(self) -> dict[str, DeferralHead]:
        """Return the trained heads by rule; `prices` are then those of the budgets."""
        if self.config.train == "student":
            few = replace(self.config, states=min(self.config.states, TURN_STATES))
            for turn in range(1, self.config.turns + 1):
                Trainer(replace(self.run, config=few, turn=turn)).take_turn()
        saved = self.checkpoints.latest()
        if saved is not None and not self._has_forks(int(saved["round"])):
            saved = None
        first = 0 if saved is None else int(saved["round"])
        self.run.metrics.keep_before(first if first <= self.config.rounds else NEVER)
        states = self._states()
        agent = self._agent(states)
        if saved is not None:
            with reading(self.checkpoints.folder):
                agent.load_state_dict(saved["agent"])
        self._rounds(agent, first)
        if first <= self.config.rounds:
            self._settle(agent)
            self._save(agent, self.config.rounds + 1)
        self.prices = agent.price(torch.tensor(self.config.budgets)).tolist()
        # Without a round nobody has measured it; a price then takes what place it needs.
        kappa = agent.kappa or 1.0
        if self.config.spans:
            self.spans = self._fit_spans(agent)
        baselines = {rule: fit_baseline(rule, self.run, agent.start, states, kappa) for rule in self.config.baselines}
        return {"learned": agent.head.eval(), "regret": agent.start, **baselines}

    def _fit_spans(self, agent: PCLAgent) -> SpanHead:
        """Fork texts of the finished policy with spans, and learn what these gain."""
        spans = self.config.spans

        def make(_: int) -> Mapping[str, torch.Tensor]:
            starts = self._starts(agent, SPAN_ROUND, self.run.count_of("texts"))
            forks, counts = self._forked("span-forks", starts, agent, "texts with spans", SPAN_STATES, spans)
            target_NY = span_targets(forks, agent.price(forks.budget_N), self.config.alpha, agent.kappa or 1.0)
            head, figures = fit_spans(spans, forks, target_NY, self.run.seed)
            self.run.metrics.write({"spans": figures, "teacher_tokens": int(counts[:, 3].sum())})
            return head.state_dict()

        head = SpanHead(spans)
        head.load_state_dict(self.run.parts("spans", 1, make)[0])
        return head.requires_grad_(False).eval()

    def take_turn(self) -> None:
        """Teach the student on what the warm start's policy writes, under each budget at its starting price."""
        agent = self._agent(self._states())
        take_turn(self.run, self._environment, self._starts(agent, 0, self.run.count_of("student_texts")), agent.logit)

    def _states(self) -> States:
        """Return states with their regrets, clipped; `judged` counts all that the teacher has read for them."""
        features_NF, regret_N = collect(self.run)
        self.judged, count = len(regret_N), self.config.states
        return features_NF[:count], regret_N[:count].clamp(max=self.config.regret_clip)

    def _agent(self, states: States) -> PCLAgent:
        """Return the agent at its warm start."""
        config, features_NF = self.config, states[0]
        head = self._warm_start(states)
        settings = PCLSettings(
            alpha=config.alpha,
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            seed=self.run.seed,
        )
        if config.agent == "pcl":
            return PCLAgent(head, settings, config.price)
        prices = starting_prices(head, config.budgets, config.alpha, features_NF[:20_000], self._per_call)
        return LagrangianAgent(head, settings, prices)

    def _warm_start(self, states: States) -> DeferralHead:
        """Fit the regression, and note how much it explains on the last tenth, which it does not see."""
        features_NF, regret_N = states
        held = max(1, len(regret_N) // 10)
        settings = self.run.regression()

        def make(_: int) -> Mapping[str, torch.Tensor]:
            steps = settings.epochs * -(-(len(regret_N) - held) // settings.batch)
            with self._bar("warm start", steps, "step") as bar:
                head = fit_regret(features_NF[:-held], regret_N[:-held], settings, lambda loss: bar.update())
            share = explained(head, features_NF[-held:], regret_N[-held:])
            figures = {"states": len(regret_N) - held, "held_out_r2": share}
            self.run.note({"warm_start": figures, "teacher_tokens": self.judged})
            return head.state_dict()

        head = DeferralHead(settings.head(features_NF.shape[1]))
        head.load_state_dict(self.run.parts("warm-start", 1, make)[0])
        return head.eval()

    def _rounds(self, agent: PCLAgent, first: int) -> None:
        """Write, fork, move the prices by the measured use, and learn from the forks of all rounds so far."""
        forks: list[Forks] = []
        for number in range(self.config.rounds if first <= self.config.rounds else 0):
            found, use, tokens, asked = self._write(agent, number)
            forks.append(found)
            if number < first:
                continue
            if isinstance(agent, LagrangianAgent):
                agent.observe(use, tokens)
            every = Forks.joined(forks)
            with self._bar(f"fit of round {number + 1}", agent.steps(every), "step") as bar:
                figures = agent.learn(every, lambda loss: bar.update())
            if isinstance(agent, LagrangianAgent):
                agent.table = starting_prices(
                    agent.head, self.config.budgets, self.config.alpha, found.features_NF, self._per_call
                )
            self._note(agent, number, figures | {"teacher_tokens": asked}, use, tokens)
            self._save(agent, number + 1)

    def _write(self, agent: PCLAgent, number: int) -> tuple[Forks, Use, Use, int]:
        """Write the texts of a round, and fork them.

        Returns:
            The forks; the use and the tokens of each budget; and the tokens that the teacher was asked for.
        """
        starts, title = self._starts(agent, number, self.run.count_of("texts")), f"texts of round {number + 1}"
        forks, counts = self._forked(f"forks-{number}", starts, agent, title, self.config.forks)
        use, tokens = used(counts, self.config.budgets)
        return forks, use, tokens, int(counts[:, 3].sum())

    def _forked(
        self,
        name: str,
        starts: list[Start],
        agent: PCLAgent,
        title: str,
        states: int,
        spans: tuple[int, ...] = (),
    ) -> tuple[Forks, torch.Tensor]:
        """Write texts and fork some states of each; return the forks, and budget, calls, tokens and the teacher's."""

        def make(part: int) -> dict[str, torch.Tensor]:
            some = starts[part * CHUNK : (part + 1) * CHUNK]
            stems, forks = play(self._environment, some, agent.logit, states=states, spans=spans)
            assert forks is not None
            return {**vars(forks), "counts": counts_of(stems)}

        parts = self.run.parts(name, -(-len(starts) // CHUNK), make, title)
        counts = torch.cat([part.pop("counts") for part in parts])
        forks = Forks.joined([Forks(**part) for part in parts])
        if self.run.metric in OF_A_CORPUS:
            weight_N = forks.length_N / forks.length_N.mean()
            spans_NK = forks.span_reward_NK * weight_N[:, None]
            forks = replace(forks, reward_N=forks.reward_N * weight_N, span_reward_NK=spans_NK)
        return forks, counts

    def _has_forks(self, done: int) -> bool:
        """Whether the forks of the rounds before are whole: only the policy of its own round could make them again."""
        if done > self.config.rounds:
            return True
        parts = range(-(-self.run.count_of("texts") // CHUNK))
        return all(chunks_are_whole(self.run.folder, f"forks-{number}", parts) for number in range(done))

    def _settle(self, agent: PCLAgent) -> None:
        """Move the prices until the greedy gate uses the teacher as each budget says, on training texts.

        The price is the quantile of the gains on the states that the gate itself visits, which change with it.
        """
        if not isinstance(agent, LagrangianAgent):
            return
        budgets = self.config.budgets
        for attempt in range(SETTLE_TRIES):
            starts = self._starts(agent, SETTLE_ROUND + attempt, settling(self.config, len(self.run.rows)))
            stems, _ = play(self._environment, starts, agent.logit, greedy=True)
            asked = sum(stem.teacher_tokens for stem in stems)
            use, _ = used(counts_of(stems), budgets)
            prices = dict(zip(budgets, agent.table.prices, strict=True))
            figures = {"use_by_budget": named(use), "prices": named(prices), "teacher_tokens": asked}
            self.run.metrics.write({"round": self.config.rounds + attempt, "settled": True, **figures})
            if all(abs(use[budget] - budget) <= SETTLED for budget in use):
                return
            moved = []
            for budget, price in prices.items():
                own = [stem for stem in stems if stem.start.budget == budget]
                gain_N = torch.tensor([z for stem in own for z in stem.logit_T]) * self.config.alpha + price
                share = share_of_states(budget, bought(own))
                moved.append(price_for(gain_N, share, 0.0, agent.table.gains.price_max) if own else price)
            agent.table = PriceTable(budgets, agent.table.gains, non_increasing(moved))
        log.warning(UNSETTLED.format(tries=SETTLE_TRIES, use=named(use)))

    def _starts(self, agent: PCLAgent, number: int, count: int) -> list[Start]:
        """Draw the texts of a round, each under one budget of the grid at its present price."""
        draws = torch.Generator().manual_seed(self.run.draws(number))
        budgets = self.config.budgets
        prices = agent.price(torch.tensor(budgets, dtype=torch.float64)).tolist()
        index_N = torch.randint(len(self.run.rows), (count,), generator=draws).tolist()
        seed_N = torch.randint(2**31, (count,), generator=draws).tolist()
        told = [place % len(budgets) for place in range(count)]
        return [
            Start(index, seed, budgets[place], prices[place])
            for index, seed, place in zip(index_N, seed_N, told, strict=True)
        ]

    @cached_property
    def _per_call(self) -> float:
        """The student's tokens that a call buys, on average: measured on a few texts with calls at random."""
        if not self.run.pair.by_text:
            return 1.0
        rows = self.run.rows[:TRIAL_TEXTS]
        starts = [Start(place, self.run.draws(TRIAL_ROUND), TRIAL_USE, 0.0) for place in range(len(rows))]
        stems, _ = play(self._environment, starts, at_random(TRIAL_USE))
        return bought(stems)

    @cached_property
    def _environment(self) -> DeferralVectorEnv:
        """The environment of this seed's texts."""
        return environment_of(self.config, self.run.pair, self.run.rows, self.run.metric)

    def _note(self, agent: PCLAgent, number: int, figures: Mapping[str, float], use: Use, tokens: Use) -> None:
        """Write the figures of a round."""
        prices = agent.price(torch.tensor(self.config.budgets)).tolist()
        told = dict(zip(self.config.budgets, prices, strict=True))
        step = f"seed {self.run.seed}, round {number + 1}"
        check_finite(step, {**figures} | {f"price of budget {budget}": price for budget, price in told.items()})
        mean = sum(use[budget] * tokens[budget] for budget in use) / sum(tokens.values())
        shown = {"use": mean, "use_by_budget": named(use), "prices": named(told)}
        self.run.metrics.write({"round": number, **figures, **shown})

    def _save(self, agent: PCLAgent, done: int) -> None:
        """Keep the agent after so many rounds; one more is that its prices have settled."""
        self.checkpoints.save(done, {"round": done, "agent": agent.state_dict()})

    def _bar(self, title: str, total: int, unit: str) -> tqdm[Any]:
        shown = self.run.accelerator.is_main_process
        title = f"{title} (seed {self.run.seed})"
        return tqdm(total=total, desc=title, unit=unit, file=sys.stderr, disable=not shown or None)


def settling(config: TrainConfig, rows: int) -> int:
    """Return how many texts prices are measured on: a greedy gate writes a row under a budget in one way only."""
    return min(SETTLE_TEXTS, config.count_of("texts", rows), rows * len(config.budgets))


def counts_of(stems: Sequence[Written]) -> torch.Tensor:
    """Return budget, calls, tokens, and the tokens that the teacher was asked for, of each text: `[N, 4]`, float64."""
    rows = [[stem.start.budget, stem.calls, stem.tokens, stem.teacher_tokens] for stem in stems]
    return torch.tensor(rows, dtype=torch.float64)


def bought(stems: Sequence[Written]) -> float:
    """Return the tokens that a call bought in some texts, on average; 1 where none was made."""
    calls = sum(sum(stem.call_T) for stem in stems)
    return max(sum(stem.calls for stem in stems) / calls, 1.0) if calls else 1.0


def used(counts: torch.Tensor, budgets: Sequence[float]) -> tuple[Use, Use]:
    """Return the measured use and the tokens of each budget that was seen.

    Args:
        counts: Budget, calls and tokens of each text, and maybe more: `[N, 3 or more]`, float64.
        budgets: The grid.
    """
    use, tokens = {}, {}
    for budget in budgets:
        calls, total = counts[counts[:, 0] == budget][:, 1:3].sum(0).tolist()
        if total:
            use[budget], tokens[budget] = calls / total, total
    return use, tokens


def named(values: Use) -> dict[str, float]:
    """Return figures by budget, as JSON names them."""
    return {f"{budget:g}": value for budget, value in values.items()}
