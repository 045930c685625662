"""Speculative cascades: their laws by exact enumeration, what they accept by hand, and the ends of alpha."""

import math

import pytest
import torch

from tests.decoding.methods.test_verify import EXACT, P, Q, Table, distance, one, round_law, tables
from wheels.decoding.methods.choices import CASCADES
from wheels.decoding.methods.verify import Cascade


def target_of(rule: Cascade, p: Table, q: Table) -> Table:
    """Return the law that a cascade follows after each prefix."""
    laws = {}
    for prefix in p:
        p_V, q_V = (torch.tensor([[list(map(float, table[prefix]))]]).double() for table in (p, q))
        laws[prefix] = tuple(map(one, rule.target(p_V, q_V)[0, 0].tolist()))
    return laws


ALPHAS = {"chow": 0.4, "diff": 0.1, "opt": 0.3, "token-v1": 0.2, "token-v2": 0.2, "token-v3": 0.4}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", CASCADES)
def test_a_cascade_has_exactly_the_law_of_its_target(kind, seed):
    rule, draft = Cascade(kind, ALPHAS[kind]), 2 if kind in ("chow", "diff", "opt") else 1
    p, q = tables(seed, draft)
    target = target_of(rule, p, q)
    assert distance(round_law(rule, p, q, target, draft), target) < EXACT


@pytest.mark.parametrize("kind", CASCADES)
def test_targets_lie_between_student_and_teacher(kind):
    found = set()
    for seed in range(12):
        p, q = tables(seed, 0)
        target = target_of(Cascade(kind, ALPHAS[kind]), p, q)[()]
        assert sum(target) == 1
        found.add("q" if target == q[()] else "p" if target == p[()] else "mixed")
    assert len(found) > 1, "one answer for all: nothing is tested"
    assert ("mixed" in found) == kind.startswith("token")


ACCEPTED = [
    ("chow", 0.45, [True]), ("chow", 0.35, [False]),
    ("diff", -0.05, [True]), ("diff", -0.15, [False]),
    ("opt", -0.45, [True]), ("opt", -0.55, [False]), ("opt", 0.0, [True]),
    ("token-v1", 0.15, [True, False, False]), ("token-v1", 0.25, [True, False, True]),
    ("token-v1", 0.45, [True, True, True]), ("token-v1", -0.15, [False, False, False]),
    ("token-v2", 0.15, [True, False, False]), ("token-v2", 0.25, [True, True, False]),
    ("token-v2", 0.35, [True, True, True]), ("token-v2", -0.05, [False, False, False]),
    ("token-v3", 0.35, [True, False, False]), ("token-v3", 0.45, [True, True, False]),
    ("token-v3", 0.65, [True, True, True]), ("token-v3", -0.05, [False, False, False]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "alpha", "expected"), ACCEPTED)
def test_what_a_cascade_accepts_by_hand(kind, alpha, expected):
    p, q = (torch.tensor(law, dtype=torch.float64)[None, None] for law in (P, Q))
    assert Cascade(kind, alpha).accepted(p, q)[0, 0].tolist() == expected


BORDERS = [
    ("chow", 0.5, [True]), ("diff", 0.0, [True]), ("opt", 0.0, [True]), ("token-v1", 0.0, [False, True, False]),
    ("token-v2", 0.0, [True, False, False]), ("token-v3", 0.0, [True, False, False]),
    ("token-v2", 0.25, [True, True, True]), ("token-v3", 0.5, [True, True, True]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "alpha", "expected"), BORDERS)
def test_what_lies_on_the_border_is_accepted(kind, alpha, expected):
    """All numbers are exact in binary. At alpha 0 the teacher's own best token still stands."""
    p, q = (torch.tensor([[law]], dtype=torch.float64) for law in ((0.5, 0.25, 0.25), (0.25, 0.5, 0.25)))
    assert Cascade(kind, alpha).accepted(p, q)[0, 0].tolist() == expected


def test_the_target_of_a_token_rule_by_hand():
    """Accepted: 0 and 2, with 0.9 of q; the tenth that is left over is shared out as p has it."""
    p, q = (torch.tensor(law, dtype=torch.float64)[None, None] for law in (P, Q))
    target_V = Cascade("token-v1", 0.25).target(p, q)[0, 0]
    assert target_V.tolist() == pytest.approx([0.6 + 0.05, 0.03, 0.3 + 0.02])


LIMITS = [
    *[(kind, -math.inf, "p") for kind in CASCADES if kind != "token-v3"], ("token-v3", -1.0, "p"),
    *[(kind, 1.0, "q") for kind in ("chow", "diff", "token-v1", "token-v2", "token-v3")], ("opt", math.inf, "q"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "alpha", "name"), LIMITS)
def test_the_ends_of_alpha_are_one_of_the_models(kind, alpha, name):
    p, q = tables(5, 2)
    assert p != q
    assert target_of(Cascade(kind, alpha), p, q) == {"p": p, "q": q}[name]


def test_equal_laws_are_no_trouble_at_infinity():
    p, q = (torch.tensor(P, dtype=torch.float64)[None, None] for _ in range(2))
    for alpha in (-math.inf, math.inf):
        assert Cascade("opt", alpha).target(p, q).equal(p)
