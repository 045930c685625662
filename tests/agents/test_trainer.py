"""The stages of one seed's training, each by itself: what it is given, what it keeps, and what a resumed run leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.agents.rl.mdp import no_spans
from tests.agents.seed_runs import seed_run
from tests.decoding.commands.test_calibrate import LIMIT, soft_pair, sources
from tests.marks import slow
from wheels.agents import trainer as stages
from wheels.agents.config import TrainConfig
from wheels.agents.regression.trained_baselines import States
from wheels.agents.rl.agent import LagrangianAgent, PCLAgent, PCLSettings
from wheels.agents.rl.lagrangian import Gains, PriceTable
from wheels.agents.rl.paths import Forks, play
from wheels.agents.rl.paths import Path as Text
from wheels.agents.trainer import SETTLE_TRIES, Trainer, settling, used, with_pseudo_references
from wheels.data.tasks import Row
from wheels.decoding.methods.method import teacher_only
from wheels.decoding.params import DecodeParams
from wheels.decoding.sampling import Sampling
from wheels.decoding.streaming import decode
from wheels.envs.settings import Start
from wheels.models.pair import Pair
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig

BUDGETS = (0.2, 0.5)
ALPHA = 0.5


@pytest.fixture(scope="module")
def pair() -> Pair:
    return soft_pair()


def trainer_of(pair: Pair, output: Path, **settings: Any) -> Trainer:
    rows = [Row(source, "a b c") for source in sources(12)]
    few = {"texts": 8, "width": 8, "warm_epochs": 1, "batch_size": 8, "alpha": ALPHA, "budgets": BUDGETS}
    return Trainer(seed_run(pair, rows, output, **few | settings))


def agent_of(pair: Pair, prices: tuple[float, ...] = (2.0, 1.0)) -> LagrangianAgent:
    head = DeferralHead(HeadConfig.of(feature_width(pair.student.config.hidden_size), pair.vocab_size, 8))
    return LagrangianAgent(head, PCLSettings(alpha=ALPHA), PriceTable(BUDGETS, prices=prices))


def states_of(trainer: Trainer, count: int = 40) -> States:
    width = feature_width(trainer.run.pair.student.config.hidden_size)
    return torch.rand(count, width), torch.rand(count)


def lines_of(trainer: Trainer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in trainer.run.metrics.path.read_text().splitlines()]


def test_the_use_of_each_budget_that_was_seen() -> None:
    """Two texts of 4 and 6 tokens at .2 with 1 and 2 calls: 3 of 10; a fourth column is not read."""
    counts = torch.tensor([[0.2, 1, 4, 99], [0.5, 3, 5, 99], [0.2, 2, 6, 99]], dtype=torch.float64)
    assert used(counts, (0.1, 0.2, 0.5)) == ({0.2: 0.3, 0.5: 0.6}, {0.2: 10.0, 0.5: 5.0})


def test_texts_are_drawn_under_each_budget_in_turn_at_its_price(pair: Pair, tmp_path: Path) -> None:
    trainer, agent = trainer_of(pair, tmp_path), agent_of(pair)
    starts = trainer._starts(agent, 3, 9)
    assert [(start.budget, start.price) for start in starts] == [((0.2, 2.0), (0.5, 1.0))[n % 2] for n in range(9)]
    assert {start.index for start in starts} <= set(range(12))
    assert len({start.seed for start in starts}) == 9
    assert starts == trainer._starts(agent, 3, 9) != trainer._starts(agent, 4, 9)


@pytest.mark.parametrize(("name", "kind"), [("pcl", PCLAgent), ("lagrangian", LagrangianAgent)])
def test_the_agent_begins_at_the_regression_and_is_the_one_asked_for(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type
) -> None:
    """The regression sees all states but the last tenth, with the regret of each."""
    trainer = trainer_of(pair, tmp_path, agent=name, price=0.7)
    features_NF, regret_N = states_of(trainer)
    fitted, once = [], stages.fit_regret

    def fit(features_NF: torch.Tensor, regret_N: torch.Tensor, *more: Any) -> DeferralHead:
        fitted.append((features_NF, regret_N, once(features_NF, regret_N, *more)))
        return fitted[0][-1]

    monkeypatch.setattr(stages, "fit_regret", fit)
    agent = trainer._agent((features_NF, regret_N))
    ((seen_NF, told_N, head),) = fitted
    assert seen_NF.equal(features_NF[:36]) and told_N.equal(regret_N[:36])
    assert all(value.equal(agent.start.state_dict()[name]) for name, value in head.state_dict().items())
    error = (head.gain(features_NF[36:], torch.zeros(4)) - regret_N[36:]).square().mean()
    share = 1 - float(error.detach() / regret_N[36:].var(unbiased=False))
    assert lines_of(trainer)[0]["warm_start"] == {"states": 36, "held_out_r2": pytest.approx(share, rel=1e-4)}
    assert type(agent) is kind
    if name == "pcl":
        assert agent.price(torch.tensor([0.2, 0.5])).tolist() == pytest.approx([0.7, 0.7])


def test_states_are_as_many_as_asked_for_with_regrets_that_are_clipped(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the teacher has read for them counts."""
    features_NF, regret_N = torch.rand(5, 3), torch.tensor([0.0, 9.0, 1.0, 2.5, 7.0])
    monkeypatch.setattr(stages, "collect", lambda run: (features_NF, regret_N))
    trainer = trainer_of(pair, tmp_path, states=4, regret_clip=2.0)
    kept_NF, clipped_N = trainer._states()
    assert kept_NF.equal(features_NF[:4]) and clipped_N.tolist() == [0.0, 2.0, 1.0, 2.0]
    assert trainer.judged == 5


def test_of_few_states_one_is_held_out(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, seen, once = trainer_of(pair, tmp_path), [], stages.fit_regret
    monkeypatch.setattr(stages, "fit_regret", lambda *given: (seen.append(len(given[0])), once(*given))[1])
    trainer._agent(states_of(trainer, 7))
    assert seen == [6]


@pytest.mark.slow
def test_references_are_texts_of_the_teacher_drawn_by_the_seed(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row gets its own, whatever the chunks; another seed gets others."""
    monkeypatch.setattr(stages, "CHUNK", 5)
    found = {}
    for seed in (0, 1):
        trainer = trainer_of(pair, tmp_path / str(seed), pseudo_references=2, seed=seed)
        rows, config = [*trainer.run.rows], trainer.config
        accelerator = trainer.run.accelerator
        found[seed] = with_pseudo_references(pair, rows, config, tmp_path / str(seed), accelerator)
        assert [(row.source, row.target) for row in found[seed]] == [(row.source, row.target) for row in rows]
        assert with_pseudo_references(pair, rows, replace(config, pseudo_references=0), tmp_path, accelerator) == rows
        # The draws of a text depend on its place in its chunk.
        for first in range(0, 12, 5):
            some = rows[first : first + 5]
            drawn = [
                decode(
                    pair,
                    [row.source for row in some],
                    teacher_only(),
                    DecodeParams(max_new_tokens=LIMIT, sampling=Sampling(temperature=1.0), seed=2 * seed + draw),
                )
                for draw in (0, 1)
            ]
            for place, row in enumerate(found[seed][first : first + 5]):
                assert row.references == tuple(traces[place].text for traces in drawn)
    assert len({row.references for row in found[0]} | {row.references for row in found[1]}) > 16


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "weighted"), [("chrf", True), *slow(("exact", False))])
def test_a_round_is_what_the_policy_writes_and_its_forks(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, weighted: bool
) -> None:
    """A fork of a text counts by its length where the metric is of a corpus; the use is that of the texts."""
    monkeypatch.setattr(stages, "CHUNK", 3)
    trainer = trainer_of(pair, tmp_path, forks=2)
    trainer.run = replace(trainer.run, metric=metric)
    agent = agent_of(pair, (0.5, 0.0))
    forks, use, tokens, asked = trainer._write(agent, 4)
    stems, plain = play(trainer._environment, trainer._starts(agent, 4, 8), agent.logit, states=2)
    assert plain is not None and len(forks) == len(plain)
    weight_N = plain.length_N / plain.length_N.mean() if weighted else torch.ones(len(plain))
    torch.testing.assert_close(forks.reward_N, plain.reward_N * weight_N)
    for name in ("features_NF", "budget_N", "calls_N", "tokens_N", "entropy_N"):
        torch.testing.assert_close(getattr(forks, name), getattr(plain, name), atol=1e-4, rtol=1e-4)
    for budget in BUDGETS:
        own = [stem for stem in stems if stem.start.budget == budget]
        assert tokens[budget] == sum(len(stem.call_T) for stem in own)
        assert use[budget] == pytest.approx(sum(stem.calls for stem in own) / tokens[budget])
    assert asked == sum(stem.teacher_tokens for stem in stems) > sum(tokens.values())
    assert trainer._has_forks(0) and not trainer._has_forks(1)


def forks_of(trainer: Trainer, count: int) -> Forks:
    features_NF, _ = states_of(trainer, count)
    one_N = torch.ones(count)
    return Forks(features_NF, 0.2 * one_N, one_N, torch.rand(count), one_N, 0 * one_N, 0 * one_N, *no_spans(count))


def test_each_round_learns_from_all_forks_at_prices_that_have_followed_the_use(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use is .3 above each budget: the integral adds K_i .3, the proportional term K_p (1 - a_p) .3."""
    trainer, agent, learned = trainer_of(pair, tmp_path, rounds=3), agent_of(pair), []
    moved = (0.5 + 0.5 * 0.1) * 0.3
    start = agent.table.prices
    over = {budget: budget + 0.3 for budget in BUDGETS}
    found = (forks_of(trainer, 5), over, dict(zip(BUDGETS, (30.0, 10.0), strict=True)), 7)
    monkeypatch.setattr(Trainer, "_write", lambda self, agent, number: found)
    monkeypatch.setattr(stages, "starting_prices", lambda *_: PriceTable(BUDGETS, prices=start))

    def learn(forks: Forks, _: Any) -> dict[str, float]:
        learned.append((len(forks), agent.table.prices))
        return {}

    monkeypatch.setattr(agent, "learn", learn)
    trainer._rounds(agent, first=1)
    # The first round is known: its forks are read, and nothing is learned from them alone.
    assert [count for count, _ in learned] == [10, 15]
    for _, prices in learned:
        assert prices == pytest.approx([price + moved for price in start])
    # Of 40 tokens 30 had a use of .5, and 10 of .8.
    noted = {"teacher_tokens": 7, "use": pytest.approx(0.575), "use_by_budget": {"0.2": 0.5, "0.5": 0.8}}
    prices = {"0.2": pytest.approx(start[0]), "0.5": pytest.approx(start[1])}
    assert lines_of(trainer) == [{"seed": 0, "round": number, **noted, "prices": prices} for number in (1, 2)]


def text(budget: float, logits: list[float]) -> Text:
    """A text that calls where its gate's logit is above 0."""
    calls = [z > 0 for z in logits]
    return Text(Start(0, 0, budget, 0.0), calls, logits, calls=sum(calls), tokens=len(calls))


def settle(
    trainer: Trainer, agent: LagrangianAgent, logits: dict[float, list[float]], monkeypatch: pytest.MonkeyPatch
) -> int:
    """Settle prices where the greedy gate always has these logits; return how often it wrote."""
    numbers = []

    def played(env: Any, starts: Any, logit: Any, *, greedy: bool) -> Any:
        assert greedy
        numbers.append(starts[0].seed)
        return [text(budget, own) for budget, own in logits.items()], None

    monkeypatch.setattr(stages, "play", played)
    trainer._settle(agent)
    assert len(set(numbers)) == len(numbers), "of other texts each time"
    return len(numbers)


def shared(calls: int, of: int) -> list[float]:
    return [1.0] * calls + [-1.0] * (of - calls)


def test_prices_that_keep_the_budgets_stay(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Within a hundredth on both sides; a budget of which no text was written has no use to keep."""
    for logits in (
        {0.2: shared(20, 100), 0.5: shared(50, 100)},
        {0.2: shared(21, 100), 0.5: shared(99, 200)},
        {0.5: shared(1, 2)},
    ):
        agent = agent_of(pair)
        assert settle(trainer_of(pair, tmp_path), agent, logits, monkeypatch) == 1
        assert agent.table.prices == (2.0, 1.0)
    assert not caplog.records


def test_a_price_moves_to_the_quantile_of_the_gains_that_were_seen(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """z = (gain - price) / alpha says what the gains are: the price goes where a fifth, or a half, of them is above."""
    agent, trainer = agent_of(pair), trainer_of(pair, tmp_path)
    logits = {0.2: torch.linspace(-3, 6, 1001).tolist(), 0.5: torch.linspace(-1, 0.5, 1001).tolist()}
    tries: list[tuple[float, ...]] = []
    once = trainer.run.metrics.write
    monkeypatch.setattr(
        trainer.run.metrics, "write", lambda line: (tries.append(tuple(line["prices"].values())), once(line))
    )
    assert settle(trainer, agent, logits, monkeypatch) == SETTLE_TRIES
    assert tries[0] == (2.0, 1.0)
    wanted = [
        price + ALPHA * float(torch.tensor(logits[budget]).quantile(1 - budget))
        for budget, price in zip(BUDGETS, tries[0], strict=True)
    ]
    assert tries[1] == pytest.approx(wanted, abs=0.01)
    assert "the prices do not keep each budget" in caplog.text


def test_prices_of_few_rows_are_measured_on_few_texts(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve rows under two budgets are 24 texts: a greedy gate writes none of them in another way."""
    written = []

    def played(env: Any, starts: Any, logit: Any, *, greedy: bool) -> Any:
        written.append(len(starts))
        return [text(0.2, shared(1, 5)), text(0.5, shared(1, 2))], None

    monkeypatch.setattr(stages, "play", played)
    agent = agent_of(pair)
    for asked in (None, 5000, 7):
        trainer_of(pair, tmp_path, texts=asked)._settle(agent)
    assert written == [24, 24, 7]
    config = TrainConfig(student="s", teacher="t", data="d", output="o")
    assert [settling(config, rows) for rows in (1, 8, 400, 10**6)] == [5, 40, 2000, 2000]


def test_a_greedy_gate_writes_a_row_under_a_budget_in_one_way(pair: Pair, tmp_path: Path) -> None:
    trainer, agent = trainer_of(pair, tmp_path), agent_of(pair, (0.01, 0.0))
    starts = [Start(place % 4, seed, 0.2, 0.01) for place, seed in enumerate(range(8))]
    stems, _ = play(trainer._environment, starts, agent.logit, greedy=True)
    assert [stem.token_T for stem in stems[:4]] == [stem.token_T for stem in stems[4:]]
    drawn, _ = play(trainer._environment, starts, agent.logit)
    assert [stem.call_T for stem in drawn[:4]] != [stem.call_T for stem in drawn[4:]]


def test_what_is_done_is_not_done_again(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of a run that was killed before its first checkpoint go; those of one that is done stay as they are."""
    settled = []

    def settle(self: Trainer, agent: LagrangianAgent) -> None:
        settled.append(self)
        for attempt in range(2):
            self.run.metrics.write({"round": self.config.rounds + attempt, "settled": True})
        agent.table = PriceTable(BUDGETS, Gains(), (3.0, 0.25))

    monkeypatch.setattr(Trainer, "_settle", settle)
    trainer = trainer_of(pair, tmp_path, rounds=0)
    trainer.run.metrics.write({"round": 0, "killed": True})
    heads = trainer.train()
    kept = lines_of(trainer)
    assert [line.get("round") for line in kept] == [None, 0, 1] and "warm_start" in kept[0]
    assert trainer.prices == pytest.approx([3.0, 0.25])
    again = trainer_of(pair, tmp_path, rounds=0)
    for rule, head in again.train().items():
        assert all(value.equal(heads[rule].state_dict()[name]) for name, value in head.state_dict().items())
    assert again.prices == trainer.prices
    assert len(settled) == 1
    assert lines_of(again) == kept


def test_pseudo_references_stand_beside_the_references_of_a_row(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "shared_chunks", lambda *given: [{"texts": [["p", "q"], ["r", "s"]]}])
    rows = [Row("a", "b", ("c",)), Row("d", "e")]
    config = TrainConfig(student="s", teacher="t", data="d", output="o", pseudo_references=2)
    found = stages.with_pseudo_references(None, rows, config, tmp_path, None)
    assert [row.references for row in found] == [("c", "p", "q"), ("r", "s")]
