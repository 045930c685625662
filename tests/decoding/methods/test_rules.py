"""The scores of every rule by hand, their thresholds, and the tables that the command line knows them by."""

import math
from types import SimpleNamespace

import pytest
import torch

from tests.decoding.tiny import make_pair
from wheels.decoding.methods.calibrated import calibrated, known_rules, rule_of
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import BUILT_IN, RULE_NAMES, RULES, TRAINED
from wheels.decoding.step import Step, regret
from wheels.errors import WheelsError
from wheels.policy.calibration import Calibration, Point
from wheels.policy.copy_features import NAMES
from wheels.policy.features import LOG_FLOOR, feature_width
from wheels.policy.head import DeferralHead, HeadConfig

Q = [[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]
P = [[0.1, 0.6, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1], [0.0, 0.5, 0.25, 0.25]]
SURE = 2
"""The row in which the student leaves no doubt, and the teacher gives its token no chance."""


def noise(position_B: torch.Tensor) -> torch.Tensor:
    """Each row's number at position 0, and the one at all others."""
    first_B, later_B = torch.tensor([[0.05, 0.25, 0.5], [0.05, 0.79, 0.81]], dtype=torch.float64)
    return torch.where(position_B == 0, first_B, later_B)


def state(**change) -> Step:
    values = {
        "logits_BV": torch.tensor(Q, dtype=torch.float64).log(),
        "hidden_BD": torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]]),
        "position_B": torch.tensor([0, 4, 9]),
        "source_B": torch.tensor([5, 5, 8]),
        "index_B": torch.tensor([0, 1, 2]),
        "calls_B": torch.tensor([0, 1, 2]),
        "budget_B": torch.tensor([0.2, 0.2, 0.5], dtype=torch.float64),
        "noise": noise,
        "copy_features": lambda token_BK: torch.zeros(len(token_BK), len(NAMES)),
        "log_p_BV": torch.tensor(P, dtype=torch.float64).log(),
    }
    return Step(**(values | change))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random", [0.05, 0.79, 0.81]),
        ("every-k", [0.05, 0.25, 0.5]),  # the row's own, wherever it is
        ("first-k", [0.05 - 1, 0.79 - 5, 0.81 - 10]),
        ("maxprob", [0.5, 0.75, 0.0]),
        ("entropy", [1.75 * math.log(2), math.log(4), 0.0]),
        ("margin", [-0.25, 0.0, -1.0]),
        # The regret, and the entropy where there is none.
        ("foresight", [math.log(0.6 / 0.1) + 1.75e-5 * math.log(2), 1e-5 * math.log(4), math.log(0.5) - LOG_FLOOR]),
    ],
)
def test_scores_by_hand(name, expected):
    assert RULES[name].score(state()).tolist() == pytest.approx(expected, abs=1e-9)
    assert RULES[name].name == name


@pytest.mark.parametrize("name", ["maxprob", "entropy", "margin", "foresight"])
def test_a_score_is_higher_where_the_student_does_worse(name):
    score_B = RULES[name].score(state())
    worse, better = (SURE, 1) if name == "foresight" else (1, SURE)
    assert score_B[worse] > score_B[0] > score_B[better]


def test_regret_is_never_negative_and_takes_the_first_of_equals():
    log_B = torch.randn(50, 7, dtype=torch.float64).log_softmax(-1), torch.randn(50, 7).log_softmax(-1)
    assert (regret(*log_B) >= 0).all() and (regret(*log_B) > 0).any()
    assert (regret(log_B[0], log_B[0]) == 0).all()
    impossible = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    assert regret(*impossible).tolist() == [-LOG_FLOOR], "the most that a token can cost"


def turns(rule: Rule, tokens: int) -> torch.Tensor:
    """Whether each of 200 rows calls at each of its tokens, `[200, tokens]`."""
    draws = torch.rand(200, tokens, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    many = {"logits_BV": torch.zeros(200, 2), "hidden_BD": torch.zeros(200, 1), "calls_B": torch.zeros(200)}
    steps = (
        state(**many, position_B=torch.full((200,), t), noise=lambda at_B: draws[torch.arange(200), at_B])
        for t in range(tokens)
    )
    return torch.stack([rule(step) for step in steps], 1)


def gaps(called_BT: torch.Tensor) -> set[int]:
    """The distances between neighbouring calls."""
    return {int(gap) for called_T in called_BT for gap in called_T.nonzero().squeeze(-1).diff()}


@pytest.mark.parametrize(("rate", "allowed"), [(0.2, {5}), (0.3, {3, 4}), (0.75, {1, 2})])
def test_every_k_calls_at_even_distances(rate, allowed):
    called_BT = turns(RULES["every-k"].at(1 - rate), 40)
    assert gaps(called_BT) == allowed
    assert ((called_BT.sum(1) - 40 * rate).abs() < 1).all(), "no row has more or less than its share"
    assert ((called_BT.double().mean(0) - rate).abs() < 0.11).all(), "the phases differ, so no position is preferred"
    assert gaps(turns(RULES["random"].at(1 - rate), 40)) > allowed


def test_texts_shorter_than_the_distance_call_in_their_share():
    assert turns(RULES["every-k"].at(0.9), 5).double().mean() == pytest.approx(0.1, abs=0.02)


def test_every_k_never_and_always():
    rule = RULES["every-k"]
    assert not turns(rule, 3).any() and not turns(rule.at(1.0), 3).any()
    assert turns(rule.at(-math.inf), 3).all() and turns(rule.at(0.0), 3).all()


def test_first_k_calls_at_the_first_tokens_and_shares_the_last_of_them():
    called_BT = turns(RULES["first-k"].at(-2.3), 6)
    assert called_BT[:, :2].all() and not called_BT[:, 3:].any()
    assert called_BT[:, 2].double().mean() == pytest.approx(0.3, abs=0.07)


def test_the_router_asks_once_and_follows():
    head = DeferralHead(HeadConfig(feature_width(2), width=8))
    told = state(position_B=torch.tensor([0, 4, 9]), calls_B=torch.tensor([0, 4, 8]))
    score_B = rule_of(model(head), "router").score(told)
    assert score_B[0] == head.gain(told.features_BF, told.budget_B)[0] and not score_B.requires_grad
    assert score_B[1:].tolist() == [math.inf, -math.inf], "the teacher's own text, and one that the student began"


def test_a_rule_that_looks_at_the_teacher_says_so():
    assert [name for name in RULES if RULES[name].needs_teacher] == ["foresight"]
    with pytest.raises(AssertionError, match="did not say that it needs the teacher"):
        RULES["foresight"](state(log_p_BV=None))


def test_a_rule_calls_where_its_score_exceeds_the_threshold():
    assert RULES["margin"].at(-0.25)(state()).tolist() == [False, True, False], "equal is not above"
    assert RULES["margin"].at(-math.inf)(state()).tolist() == [True, True, True]
    assert RULES["margin"](state()).tolist() == [False, False, False], "until it is given a threshold it never calls"
    moved = RULES["foresight"].at(1.0)
    assert (moved.name, moved.threshold, moved.needs_teacher) == ("foresight", 1.0, True)


def test_a_trained_rule_is_told_features_and_budget():
    head = DeferralHead(HeadConfig(feature_width(2), width=8))
    for parameter in head.shift[-1].parameters():
        torch.nn.init.normal_(parameter)
    told = state()
    score_B = rule_of(model(head), "learned").score(told)
    assert score_B.equal(head.gain(told.features_BF, told.budget_B).detach()) and not score_B.requires_grad
    assert not score_B.equal(rule_of(model(head), "learned").score(state(budget_B=torch.ones(3))))


def model(*heads: DeferralHead, points: tuple[Point, ...] = ()) -> SimpleNamespace:
    """What of a trained model the rules ask for."""
    return SimpleNamespace(
        pair=make_pair("t5"),
        folder=None,
        head=lambda rule, seed=0: heads[seed],
        calibration=Calibration(list(points)),
        price=lambda rule, budget, seed=0: 3.0 + seed if (rule, budget) == ("learned", 0.1) else None,
    )


def test_every_rule_of_the_command_line_can_be_made():
    head = DeferralHead(HeadConfig(feature_width(2), width=8))
    assert {rule.name for rule in BUILT_IN if rule.seeded} == {*TRAINED, "random", "every-k"}
    for name in RULE_NAMES:
        rule = rule_of(model(head), name)
        assert isinstance(rule, Rule) and rule.name == name and rule.threshold == math.inf
        assert rule(state()).shape == (3,)


def test_a_record_says_how_its_rule_is_shown():
    assert tuple(rule.name for rule in BUILT_IN) == RULE_NAMES == tuple(RULES)
    assert all(rule.label and (rule.score is None) == (rule.head is not None) for rule in BUILT_IN)
    for look in ("color", "mark", "label"):
        assert len({getattr(rule, look) for rule in BUILT_IN}) == len(BUILT_IN), f"two rules of one {look}"


def test_a_model_can_be_asked_for_what_it_has_heads_for():
    older = SimpleNamespace(pair=make_pair("t5"), heads={"learned": ["a"], "regret": ["b"], "gate": []})
    assert known_rules(older) == tuple(name for name in RULE_NAMES if name not in {*TRAINED} - {"learned", "regret"})
    assert known_rules(SimpleNamespace(pair=make_pair("t5"), heads={name: ["a"] for name in TRAINED})) == RULE_NAMES


def test_a_calibrated_rule_has_the_threshold_of_its_budget_and_seed():
    heads = [DeferralHead(HeadConfig(feature_width(2), width=8)) for _ in range(2)]
    points = (
        Point("learned", 0, 0.2, 0.5, 0.2),
        Point("learned", 1, 0.2, 0.7, 0.2),
        Point("entropy", 0, 0.2, 1.5, 0.2),
    )
    trained = model(*heads, points=points)
    assert calibrated(trained, "learned", 0.2, seed=1).threshold == 0.7
    assert calibrated(trained, "entropy", 0.2, seed=5).threshold == 1.5, "nothing of it differs from seed to seed"
    assert calibrated(trained, "random", 0.2, seed=5).threshold == 0.8
    assert calibrated(trained, "every-k", 0.2, seed=5).threshold == 0.8
    assert calibrated(trained, "margin", 0.0).threshold == math.inf
    assert calibrated(trained, "margin", 1.0).threshold == -math.inf
    for budget in (0.0, 1.0):
        assert calibrated(trained, "margin", budget, mode="online").levels == (), "there is nothing to move"
    with pytest.raises(
        WheelsError,
        match=r"rule .margin. .* not calibrated.*; measure one by wheels.calibrate\(.*\), or give a rule that was",
    ):
        calibrated(trained, "margin", 0.2)


def test_the_agent_calls_at_its_price_where_nothing_is_calibrated():
    heads = [DeferralHead(HeadConfig(feature_width(2), width=8)) for _ in range(2)]
    trained = model(*heads, points=(Point("learned", 0, 0.2, 0.5, 0.2),))
    found = calibrated(trained, "learned", 0.1, seed=1)
    assert (found.threshold, found.budget) == (4.0, 0.1)
    assert calibrated(trained, "learned", 0.2).threshold == 0.5, "a threshold goes first"
    for rule, mode in (("regret", "average"), ("learned", "online")):
        with pytest.raises(WheelsError, match=rf"rule .{rule}. \(seed 1\) is not calibrated"):
            calibrated(trained, rule, 0.1, seed=1, mode=mode)


def test_an_unknown_rule_is_refused():
    with pytest.raises(WheelsError, match=r"rule must be one of learned, .*, got 'entropie'; did you mean 'entropy'"):
        rule_of(model(), "entropie")
