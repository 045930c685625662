"""What a call gains in the task's metric, from texts that were finished both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.agents.seed_runs import seed_run
from tests.decoding.commands.test_calibrate import LIMIT, soft_pair, sources
from tests.decoding.tiny import write
from tests.marks import slow
from wheels.agents.regression import paired
from wheels.agents.regression.paired import (
    BUDGETS,
    Fit,
    FlippedRule,
    GainThresholdRule,
    Pairs,
    collect_pairs,
    counterfactual_pairs,
    fit_pairs,
    thresholds_of,
)
from wheels.data.tasks import Row
from wheels.decoding.teacher_forcing import teacher_force
from wheels.decoding.trace import TEACHER, Trace
from wheels.metrics import sentence_scores
from wheels.models.pair import Pair
from wheels.policy.features import feature_width
from wheels.policy.head import DeferralHead, HeadConfig


@pytest.fixture(scope="module")
def pair() -> Pair:
    return soft_pair()


@pytest.fixture
def head(pair: Pair) -> DeferralHead:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        width = feature_width(pair.student.config.hidden_size)
        return DeferralHead(HeadConfig.of(width, pair.vocab_size, 8)).requires_grad_(False)


def rows_of(count: int) -> list[Row]:
    return [Row(source, "a b c d") for source in sources(count)]


def states_of(pair: Pair, rows: list[Row]) -> torch.Tensor:
    encoded = pair.encode([row.source for row in rows])
    return torch.cat([known.features_TF for known in teacher_force(pair, encoded, [[3, 4, 5]] * len(rows))])


def written(pair: Pair, rows: list[Row], rule: Any) -> list[Trace]:
    budgets = [BUDGETS[place % 3] for place in range(len(rows))]
    return write(pair, [row.source for row in rows], rule, budget=budgets, max_new_tokens=LIMIT)


def test_one_decision_is_another_and_the_rest_follows(pair: Pair, head: DeferralHead) -> None:
    rows = rows_of(9)
    rule = GainThresholdRule(head, thresholds_of(head, states_of(pair, rows)))
    first = written(pair, rows, rule)
    at = [place % len(trace.authors) for place, trace in enumerate(first)]
    flipped = FlippedRule(rule, at)
    for row, (old, new) in enumerate(zip(first, written(pair, rows, flipped), strict=True)):
        place = at[row]
        assert old.authors[:place] == new.authors[:place] and old.token_ids[:place] == new.token_ids[:place]
        assert (old.authors[place] == TEACHER) != (new.authors[place] == TEACHER)
        (known,) = teacher_force(pair, pair.encode([rows[row].source]), [old.token_ids])
        assert torch.allclose(flipped.features[row], known.features_TF[place], atol=1e-5)


@pytest.mark.slow
def test_the_gain_is_that_of_the_call_whichever_text_has_it(pair: Pair, head: DeferralHead) -> None:
    rows = rows_of(30)
    rule = GainThresholdRule(head, thresholds_of(head, states_of(pair, rows)))
    first = written(pair, rows, rule)
    # The first text is right: a call in it gains, and one instead of its writing loses.
    rows = [Row(row.source, trace.text or "a") for row, trace in zip(rows, first, strict=True)]
    pairs, length_N = counterfactual_pairs(pair, rows, rule, "chrf", seed=1, batch_size=8, max_new_tokens=LIMIT)
    assert length_N.tolist() == [trace.tokens for trace in first] and not rule.gains
    own = sentence_scores("chrf", [trace.text for trace in first], [row.target for row in rows])
    moved = [(gain, score) for gain, score in zip(pairs.gain_N.tolist(), own, strict=True) if gain]
    assert any(gain > 0 for gain, _ in moved) and any(gain < 0 for gain, _ in moved)
    assert all(abs(gain) <= score + 1e-4 for gain, score in moved)
    again, _ = counterfactual_pairs(pair, rows, rule, "chrf", seed=1, batch_size=30, max_new_tokens=LIMIT)
    assert again.gain_N.equal(pairs.gain_N) and again.features_NF.equal(pairs.features_NF)


def test_pairs_are_kept_and_weighted_by_length(
    pair: Pair, head: DeferralHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, sizes = rows_of(5), []

    def counted(pair: Pair, chosen: list[Row], *more: Any, **named: Any) -> Any:
        sizes.append(len(chosen))
        return counterfactual_pairs(pair, chosen, *more, **named)

    monkeypatch.setattr(paired, "CHUNK", 4)
    monkeypatch.setattr(paired, "counterfactual_pairs", counted)
    states_NF = states_of(pair, rows)
    for _ in range(2):
        found = collect_pairs(seed_run(pair, rows, tmp_path, pairs=6), head, states_NF)
    assert sizes == [4, 2], "the second time all of it is there"
    plain = collect_pairs(replace(seed_run(pair, rows, tmp_path, pairs=6), metric="exact"), head, states_NF)
    length_N = torch.cat([torch.load(path)["length_N"] for path in sorted(tmp_path.rglob("pairs-*.pt"))])
    assert torch.allclose(found.gain_N, plain.gain_N * length_N / length_N.mean())


FEATURES = 6


def synthetic(count: int, extra: float, noise: float) -> tuple[DeferralHead, Pairs]:
    """A head whose base is the first feature, and gains of `2 x_0 + extra x_1` points with noise."""
    draw = torch.Generator().manual_seed(0)
    features_NF = torch.randn(count, FEATURES, generator=draw)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = DeferralHead(HeadConfig(FEATURES, 128, shift_reads="numbers"))
        optimizer = torch.optim.Adam(head.regressed(), 3e-3)
        some_NF = features_NF[:500]
        for _ in range(200):
            loss = (head.gain(some_NF, torch.zeros(len(some_NF))) - some_NF[:, 0]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    gain_N = 2 * features_NF[:, 0] + extra * features_NF[:, 1] + noise * torch.randn(count, generator=draw)
    return head.requires_grad_(False), Pairs(features_NF, gain_N, torch.full((count,), 0.2))


@pytest.mark.slow
def test_the_shift_finds_what_the_regret_does_not_tell() -> None:
    head, pairs = synthetic(12_000, extra=2.0, noise=4.0)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    figures = fit_pairs(head, pairs, Fit())
    assert figures["points_per_nat"] == pytest.approx(2.0, abs=0.25)
    wanted_N = pairs.features_NF[:, 0] + pairs.features_NF[:, 1]
    with torch.no_grad():
        gain_N = head.gain(pairs.features_NF, pairs.budget_N)
    assert float((gain_N - wanted_N).square().mean()) < 0.15 < float((pairs.features_NF[:, 1]).square().mean())
    assert figures["held_out_r2"] > 1.5 * figures["held_out_r2_base"]
    moved = {name.split(".")[0] for name, value in head.state_dict().items() if not value.equal(before[name])}
    assert moved == {"shift"}


@pytest.mark.slow
def test_the_shift_is_fitted_in_nats_to_what_the_base_leaves() -> None:
    """`gain / kappa` is the target: the fit says `kappa` points for each nat, of nine pairs in ten."""
    head, pairs = synthetic(400, extra=3.0, noise=0.0)
    base_N = head.gain(pairs.features_NF, torch.zeros(400))
    figures = fit_pairs(head, pairs, Fit(epochs=12, learning_rate=1e-2, weight_decay=0.01))
    held_N = torch.arange(400) % 10 == 9
    slope = torch.cov(torch.stack([base_N, pairs.gain_N])[:, ~held_N])
    assert figures["points_per_nat"] == pytest.approx(float(slope[0, 1] / slope[0, 0]), rel=1e-4)
    gain_N = head.gain(pairs.features_NF, pairs.budget_N).detach()
    said = torch.corrcoef(torch.stack([gain_N, pairs.gain_N])[:, held_N])[0, 1]
    assert figures["held_out_r2"] == pytest.approx(float(said.square()), abs=1e-4) and figures["held_out_r2"] > 0.9
    assert figures["held_out_r2_base"] < 0.6
    error_N = gain_N * figures["points_per_nat"] - pairs.gain_N
    assert float(error_N.square().mean() / pairs.gain_N.var()) < 0.1


@pytest.mark.filterwarnings("ignore:cov")
def test_a_handful_of_pairs_is_fitted_one_by_one() -> None:
    """The one pair that is held out has no correlation with anything: the head stays as it was."""
    head, pairs = synthetic(10, extra=0.0, noise=0.0)
    before = head.gain(pairs.features_NF, pairs.budget_N)
    figures = fit_pairs(head, pairs, Fit(epochs=2))
    assert figures["points_per_nat"] > 0 and figures["held_out_r2"] == 0.0
    assert head.gain(pairs.features_NF, pairs.budget_N).equal(before)


def test_a_base_that_tells_nothing_leaves_the_head_as_it_was() -> None:
    head, pairs = synthetic(40, extra=0.0, noise=0.0)
    head.base.weight.zero_()
    figures = fit_pairs(head, pairs, Fit(epochs=1))
    assert figures == {"pairs": 40.0, "points_per_nat": 0.0, "held_out_r2_base": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1.0, *slow(-1.0)])
def test_what_is_luck_alone_leaves_the_head_as_it_was(sign: float) -> None:
    head, pairs = synthetic(300, extra=0.0, noise=40.0)
    pairs = Pairs(pairs.features_NF, sign * pairs.gain_N, pairs.budget_N)
    before = head.gain(pairs.features_NF, pairs.budget_N)
    figures = fit_pairs(head, pairs, Fit())
    kept = not figures.get("held_out_r2", 0.0) > figures["held_out_r2_base"]
    assert kept and head.gain(pairs.features_NF, pairs.budget_N).equal(before)
