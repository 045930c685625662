"""`wheels train`: states, warm start, rounds of rollout and update, thresholds; a killed run resumes.

Runs on accelerate, in one process or in several under `torchrun`: each process decodes its share of the sources and the
gradients are averaged.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from wheels.agents.config import TrainConfig
from wheels.agents.plan import calibration_of, workload
from wheels.agents.regression.paired import Fit, collect_pairs, fit_pairs
from wheels.agents.regression.states import collect, stacked
from wheels.agents.regression.trained_baselines import TrainedBaselines, collect_gains
from wheels.agents.regression.warm_start import WarmStart, explained, fit_regret
from wheels.agents.reports import ReportedMetrics, Reports, reporting
from wheels.agents.rl.agent import LagrangianAgent, PCLAgent, PCLSettings, starting_prices
from wheels.agents.rl.episode import Episode, collate
from wheels.agents.rl.replay import Replay
from wheels.agents.rl.rollout import Behaviour, GateRule, roll_out
from wheels.agents.rl.student import StudentAgent, StudentSettings
from wheels.agents.runlog import Checkpoints, identity_of, reading
from wheels.config.parsing import to_dict, write_resolved
from wheels.data.tasks import Row, Task, load_task
from wheels.decoding.commands.calibrate import calibrate_model
from wheels.decoding.sampling import GREEDY, Sampling
from wheels.decoding.trace import Trace
from wheels.errors import check_choice
from wheels.finite import check_finite, check_weights
from wheels.metrics import METRICS, sentence_scores
from wheels.models.artefact import save_deferral
from wheels.models.pair import Pair
from wheels.output.notices import Pace
from wheels.policy.head import DeferralHead
from wheels.reports import check_reports
from wheels.runs import Run, claim

log = logging.getLogger("wheels")

STATES_A_TEXT = 40
"""Texts of this length would fill the replay: so many episodes from mixed paths are offered to it at first."""
CRITIC_ROUNDS = 3
"""Rounds in which only values are learned, so that the gate is not moved by random ones."""


def run(config: TrainConfig) -> None:
    """Train a model; see `TrainConfig`."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    check_reports(config.report_to)
    output = Path(config.output)
    task = load_task(config.data, source=config.source, target=config.target, prompt=config.prompt)
    _sentence_metric(config, task)  # what there is not is found before the work
    for split in ("train", "validation") if config.calibrate else ("train",):
        task.rows(split)
    calibration_of(config)
    with claim(output, "train", config, identity_of(config, task.digest)) as held:
        if held.finished:
            print(f"{output} holds the finished run of these settings; nothing to do")
            return
        with reporting(config) as reports:
            _train(config, task, reports, held)


def _train(config: TrainConfig, task: Task, reports: Reports, held: Run) -> None:
    """Train the heads, or the student with them, and write the model's folder."""
    output = Path(config.output)
    pair = Pair.load(config.student, config.teacher, prompt=task.prompt, dtype=config.dtype, device=config.device)
    accelerator = Accelerator(cpu=config.device == "cpu")
    rows = task.train[: config.limit]
    if accelerator.is_main_process:
        validation = len(task.splits.get("validation", ())[: config.calibration_limit])
        for line in workload(config, len(rows), validation):
            log.info(line)
    episodes = collect(pair, rows, config, output / ".training", accelerator)
    baselines = _trained_baselines(config, pair, rows, task, episodes, accelerator) if config.train == "head" else None
    heads: dict[str, list[DeferralHead]] = {"learned": [], "regret": []}
    prices = []
    for seed in range(config.seed, config.seed + config.seeds):
        trainer = Trainer(config, pair, rows, task, seed, accelerator, reports)
        agent = trainer.train(episodes)
        heads["learned"].append(agent.head)
        heads["regret"].append(agent.reference if config.train == "head" else trainer.refit())
        for rule, head in (baselines.fit(seed, trainer.metrics) if baselines is not None else {}).items():
            heads.setdefault(rule, []).append(head)
        prices.append(agent.price(torch.tensor(config.budgets)).tolist())
    if accelerator.is_main_process:
        finish(config, pair, task, heads, prices)
        held.finish(*(file for place in (output, output / "deferral") for file in place.glob("*.safetensors")))
        shutil.rmtree(output / ".training", ignore_errors=True)
        print(f"written to {output}: the student, and deferral/ with {config.seeds} trained seed(s)")


def _trained_baselines(
    config: TrainConfig,
    pair: Pair,
    rows: Sequence[Row],
    task: Task,
    episodes: Sequence[Episode],
    accelerator: Accelerator,
) -> TrainedBaselines:
    """Return the trained baselines that the agent is compared with."""
    folder = Path(config.output) / ".training"
    gains = collect_gains(pair, rows, _sentence_metric(config, task), config, folder, accelerator)
    return TrainedBaselines(config, episodes, gains, pair.vocab_size, folder, accelerator)


def _sentence_metric(config: TrainConfig, task: Task) -> str:
    """Return the metric of single texts: the task's first, but chrF for BLEU, which is a corpus metric."""
    metric = check_choice("metric", config.metric or task.metrics[0], METRICS)
    return metric if metric != "bleu" else "chrf"


def finish(
    config: TrainConfig, pair: Pair, task: Task, heads: dict[str, list[DeferralHead]], prices: list[list[float]]
) -> None:
    """Write the model's folder, and find its thresholds."""
    output = Path(config.output)
    for rule, fitted in heads.items():
        for seed, head in enumerate(fitted):
            check_weights(head, f"end of seed {config.seed + seed}, rule {rule}")
    pair.save_student(output)
    teacher = os.path.relpath(config.teacher, output) if Path(config.teacher).is_dir() else config.teacher
    trained = {"settings": to_dict(config), "budgets": list(config.budgets), "prices": prices}
    save_deferral(output, heads, teacher=teacher, prompt=pair.prompt, trained=trained)
    if config.calibrate:
        calibrate_model(calibration_of(config))
    write_resolved(config, output, {"data_digest": task.digest, "finished": True})


class Trainer:
    """One seed's training: from the warm start through the rounds."""

    def __init__(
        self,
        config: TrainConfig,
        pair: Pair,
        rows: Sequence[Row],
        task: Task,
        seed: int,
        accelerator: Accelerator,
        reports: Reports,
    ) -> None:
        self.config, self.pair, self.rows, self.task, self.seed = config, pair, rows, task, seed
        self.accelerator = accelerator
        place = Path(config.output) / ".training" / f"seed-{seed}"
        self.checkpoints = Checkpoints(place, accelerator)
        log = Path(config.output) / "metrics.jsonl"
        self.metrics = ReportedMetrics(log, seed, reports, enabled=accelerator.is_main_process)
        self.full = config.train == "student"
        self.paired = config.pairs > 0 and not self.full
        self.replay = Replay(config.replay, on_policy_share=config.on_policy, seed=_mixed(seed, accelerator, 1))

    def train(self, episodes: Sequence[Episode]) -> PCLAgent:
        """Return the trained agent.

        Args:
            episodes: From mixed paths, the same for all seeds.
        """
        saved, first = self.checkpoints.latest(), 0
        agent = self._agent(episodes, fresh=saved is None)
        if saved is None:
            self.replay.add(episodes[-self.config.replay // STATES_A_TEXT :])
        else:
            with reading(self.checkpoints.folder):
                agent.load_state_dict(saved["agent"])
                self.replay.load_state_dict(saved["replay"])
                first = int(saved["round"])
        self.metrics.keep_before(first)
        pace = Pace(self.config.iterations - first, "rounds")
        with self._bar(first) as bar:
            for number in range(first, self.config.iterations):
                figures = pace.timed(partial(self._round, agent, number))()
                self.metrics.write({"round": number, **figures})
                bar.set_postfix_str(f"loss {figures['loss']:.3f} use {figures['use']:.3f}")
                bar.update()
                if (number + 1) % self.config.checkpoint_every == 0 or number + 1 == self.config.iterations:
                    state = {"round": number + 1, "agent": agent.state_dict(), "replay": self.replay.state_dict()}
                    self.checkpoints.save(number + 1, state)
        agent.head.requires_grad_(False).eval()
        return agent

    def _agent(self, episodes: Sequence[Episode], *, fresh: bool) -> PCLAgent:
        """Return the agent at its warm start, or untrained for a state to be loaded."""
        config = self.config
        features_NF, regret_N = stacked(episodes)
        regret_N = regret_N.clamp(max=config.regret_clip)
        if fresh:
            head = self._warm_start(features_NF, regret_N)
            warm = head.frozen_copy()
            if self.paired:
                self._fit_pairs(head, features_NF)
        else:
            head = DeferralHead(self._regression().head(features_NF.shape[1]))
        settings = PCLSettings(
            gamma=config.gamma,
            alpha=config.alpha,
            suffix_weight=config.suffix_weight,
            path=config.path,
            trust=config.trust,
            regret_clip=config.regret_clip,
            learning_rate=config.learning_rate,
            target_rate=config.target_rate,
        )
        agent: PCLAgent
        if config.agent == "pcl":
            agent = PCLAgent(head, settings, config.price)
        else:
            table = starting_prices(head, config.budgets, settings.alpha, features_NF[:20_000])
            agent = LagrangianAgent(head, settings, table)
            if self.full:
                own = StudentSettings(config.student_learning_rate, config.anchor)
                agent = StudentAgent(self.pair, head, settings, table, own)
        if fresh:
            agent.reference = warm
        return agent

    def _regression(self) -> WarmStart:
        """Return how the warm start is fitted."""
        config = self.config
        return WarmStart(
            epochs=config.warm_epochs,
            learning_rate=config.warm_learning_rate,
            seed=self.seed,
            width=config.width,
            vocab_size=self.pair.vocab_size,
        )

    def _warm_start(self, features_NF: torch.Tensor, regret_N: torch.Tensor) -> DeferralHead:
        """Fit the regression, and note how much it explains on the last tenth, which it does not see."""
        held = max(1, len(regret_N) // 10)
        settings = self._regression()
        steps = settings.epochs * -(-(len(regret_N) - held) // settings.batch)
        with tqdm(total=steps, desc=f"warm start (seed {self.seed})", unit="step", file=sys.stderr) as bar:
            head = fit_regret(features_NF[:-held], regret_N[:-held], settings, lambda loss: bar.update())
        share = explained(head, features_NF[-held:], regret_N[-held:])
        self.metrics.write({"warm_start": {"states": len(regret_N) - held, "held_out_r2": share}})
        return head

    def _fit_pairs(self, head: DeferralHead, features_NF: torch.Tensor) -> None:
        """Fit the worth of a call beyond the regret from counterfactual pairs."""
        folder = Path(self.config.output) / ".training"
        metric = _sentence_metric(self.config, self.task)
        pairs = collect_pairs(self.pair, self.rows, head, features_NF, metric, self.config, folder, self.accelerator)
        self.metrics.write({"pairs": fit_pairs(head, pairs, Fit(seed=self.seed))})

    def _round(self, agent: PCLAgent, number: int) -> dict[str, Any]:
        """Decode with the present policy, move the prices, and learn from the replay.

        A gate that was fitted to counterfactual pairs is at the fixed point of its residuals: values and prices
        alone are learned.
        """
        config = self.config
        sources, references, budgets = self._prompts(number)
        sampling = Sampling(temperature=1.0) if self.full else GREEDY
        behaviour = Behaviour(GateRule(agent.head, agent.price, config.alpha), on_policy=True, sampling=sampling)
        episodes, traces = roll_out(
            self.pair,
            sources,
            budgets,
            behaviour,
            seed=_mixed(self.seed, self.accelerator, 1000 + number),
            batch_size=config.batch_size,
            max_new_tokens=config.max_new_tokens,
            terminal=self._terminal(references),
            keep_texts=self.full,
        )
        use, tokens = self._use(traces)
        if isinstance(agent, LagrangianAgent):
            agent.observe(use, tokens)
        self.replay.add(episodes)
        step = f"seed {self.seed}, round {number + 1}"
        measured = [
            self._update(agent, f"{step}, update {update + 1}", critic_only=number < CRITIC_ROUNDS or self.paired)
            for update in range(config.updates)
        ]
        figures: dict[str, Any] = {
            name: sum(figure[name] for figure in measured) / len(measured) for name in measured[0]
        }
        figures["use"] = sum(use[b] * tokens[b] for b in use) / sum(tokens.values())
        figures["use_by_budget"] = {f"{budget:g}": share for budget, share in use.items()}
        prices = agent.price(torch.tensor(config.budgets)).tolist()
        figures["prices"] = {f"{budget:g}": price for budget, price in zip(config.budgets, prices, strict=True)}
        check_finite(step, {"use": figures["use"]} | {f"price of budget {b}": p for b, p in figures["prices"].items()})
        return figures

    def _update(self, agent: PCLAgent, step: str, *, critic_only: bool) -> dict[str, float]:
        """Take one gradient step on episodes from the replay."""
        episodes = self.replay.sample(max(1, self.config.batch_size // self.accelerator.num_processes))
        if isinstance(agent, StudentAgent):
            return agent.learn_texts(episodes, critic_only=critic_only, share=self._average, step=step)
        batch = collate(episodes).to(self.pair.device)
        return agent.learn(batch, critic_only=critic_only, share=self._average, step=step)

    def refit(self) -> DeferralHead:
        """Return a regression of the current student's regret: its `regret` rule."""
        folder = Path(self.config.output) / ".training" / f"refit-{self.seed}"
        features_NF, regret_N = stacked(collect(self.pair, self.rows, self.config, folder, self.accelerator))
        return self._warm_start(features_NF, regret_N.clamp(max=self.config.regret_clip))

    def _prompts(self, number: int) -> tuple[list[str], list[str], list[float]]:
        """Return this round's sources, references and budgets: this process's share of them."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        count = min(self.config.prompts, len(self.rows))
        chosen = torch.randperm(len(self.rows), generator=generator)[:count].tolist()
        grid = self.config.budgets
        budgets = [grid[place % len(grid)] for place in range(count)]
        mine = range(self.accelerator.process_index, count, self.accelerator.num_processes)
        rows = [self.rows[chosen[place]] for place in mine]
        return [row.source for row in rows], [row.target for row in rows], [budgets[place] for place in mine]

    def _terminal(self, references: list[str]) -> Callable[[list[Trace]], list[float]] | None:
        """Return the terminal reward: the scaled sentence metric against the reference; None at weight 0."""
        weight, metric = self.config.terminal, _sentence_metric(self.config, self.task)
        if weight == 0:
            return None
        return lambda traces: [
            weight * value for value in sentence_scores(metric, [trace.text for trace in traces], references)
        ]

    def _use(self, traces: Sequence[Trace]) -> tuple[dict[float, float], dict[float, float]]:
        """Return the measured use of each budget over all processes, and the tokens that it was measured on."""
        grid = self.config.budgets
        counts = torch.zeros(len(grid), 2, dtype=torch.float64)
        for trace in traces:
            counts[grid.index(trace.budget)] += torch.tensor([trace.teacher_tokens, trace.tokens])
        counts = self.accelerator.reduce(counts.to(self.accelerator.device), "sum").cpu()
        seen = [(budget, *row) for budget, row in zip(grid, counts.tolist(), strict=True) if row[1]]
        return {b: calls / total for b, calls, total in seen}, {b: total for b, _, total in seen}

    def _average(self, parameters: Iterator[torch.nn.Parameter]) -> None:
        """Average the gradients over the processes."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def _bar(self, first: int) -> tqdm[Any]:
        return tqdm(
            total=self.config.iterations,
            initial=first,
            desc=f"agent (seed {self.seed})",
            unit="round",
            file=sys.stderr,
            disable=not self.accelerator.is_main_process or None,
        )


def _mixed(seed: int, accelerator: Accelerator, stream: int) -> int:
    """Return a distinct seed for each (seed, process, stream)."""
    return (seed * 64 + accelerator.process_index) * 1_000_003 + stream
