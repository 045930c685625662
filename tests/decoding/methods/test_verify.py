"""Verifiers against exact enumeration on three tokens, tables by hand, and rules that are wrong."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from wheels.decoding.methods.verify import Cascade, Check, Speculative, ThresholdVerifier, Verdict, Verifier
from wheels.decoding.sampling import GREEDY, Sampling
from wheels.errors import WheelsError

V = 3
EXACT = 1e-12
"""The grids below hit every interval of a uniform number as often as it is long: what is left is float64's rounding."""
FAR = 0.02
"""What a wrong rule misses by at least, in total variation."""

Law = tuple[Fraction, ...]
Table = dict[tuple[int, ...], Law]


def tables(seed: int, length: int, parts: int = 6) -> tuple[Table, Table]:
    """Return laws p and q of the next token after each prefix of up to `length` tokens, in whole `parts`."""
    generator = torch.Generator().manual_seed(seed)
    laws = [
        tuple(Fraction(share, parts) for share in shares)
        for shares in itertools.product(range(1, parts), repeat=V)
        if sum(shares) == parts
    ]
    prefixes = [prefix for size in range(length + 1) for prefix in itertools.product(range(V), repeat=size)]
    chosen = torch.randint(len(laws), (2, len(prefixes)), generator=generator).tolist()
    p, q = ({prefix: laws[place] for prefix, place in zip(prefixes, row, strict=True)} for row in chosen)
    return p, q


def residual(target: Law, proposal: Sequence[Fraction]) -> Law:
    """Return `norm(max(0, target - proposal))`, or the target where nothing is left over."""
    mass = [max(Fraction(0), wanted - given) for wanted, given in zip(target, proposal, strict=True)]
    return tuple(share / sum(mass) for share in mass) if sum(mass) else target


def grid(breaks: Sequence[Fraction]) -> torch.Tensor:
    """Return the midpoints of equal parts of [0, 1) whose borders all `breaks` are."""
    parts = math.lcm(*(value.denominator for value in breaks))
    return (torch.arange(parts, dtype=torch.float64) + 0.5) / parts


def round_law(
    verifier: Verifier, p: Table, q: Table, target: Table, draft: int, strict: Fraction = Fraction(1)
) -> dict[tuple[int, ...], float]:
    """Return the law of the first `draft` tokens (one more with a bonus) of texts written by rounds of `verifier`.

    Every draft, weighed by q, meets every interval of every uniform number; behind the first round, whose token may
    come early, the text goes on by `target`.
    """
    shorter = [prefix for prefix in q if len(prefix) < draft]
    accepts = [value / (strict * given) for s in shorter for value, given in zip(target[s], q[s], strict=True)]
    laws = [*p.values(), *(residual(target[s], [strict * given for given in q[s]]) for s in shorter)]
    noise = grid([sum(law[:end], Fraction(0)) for law in laws for end in range(1, V)])
    uniforms = torch.cartesian_prod(*[grid(accepts)] * draft, noise)
    size = draft + verifier.bonus
    law = dict.fromkeys(itertools.product(range(V), repeat=size), 0.0)
    for tokens in itertools.product(range(V), repeat=draft):
        weight = math.prod(float(q[tokens[:place]][token]) for place, token in enumerate(tokens))
        verdict = verifier(check_of(p, q, tokens, uniforms[:, :draft], uniforms[:, -1]))
        outcomes = torch.stack([verdict.num_accepted_R, verdict.token_R], 1)
        for (kept, token), count in zip(
            *map(torch.Tensor.tolist, outcomes.unique(dim=0, return_counts=True)), strict=True
        ):
            share = weight * count / len(uniforms)
            written = tokens if kept == draft and not verifier.bonus else (*tokens[:kept], token)
            for rest in itertools.product(range(V), repeat=size - len(written)):
                text = (*written, *rest)
                law[text] += share * float(chance(target, text, len(written)))
    return law


def chance(table: Table, text: tuple[int, ...], since: int = 0) -> Fraction:
    """Return the probability of a text, or of what it has from `since` on."""
    return math.prod((table[text[:place]][text[place]] for place in range(since, len(text))), start=Fraction(1))


def check_of(p: Table, q: Table, tokens: tuple[int, ...], accept_RK: torch.Tensor, token_R: torch.Tensor) -> Check:
    """Put one draft, once for each row of uniform numbers, before a verifier."""
    rows, draft = len(accept_RK), len(tokens)
    p_WV = torch.tensor([[float(share) for share in p[tokens[:place]]] for place in range(draft + 1)]).double()
    q_KV = torch.tensor([[float(share) for share in q[tokens[:place]]] for place in range(draft)]).double()
    return Check(
        logits_RWV=p_WV.log().expand(rows, -1, -1),
        draft_RK=torch.tensor(tokens).expand(rows, -1),
        num_draft_R=torch.full((rows,), draft),
        sampling=Sampling(1.0),
        q_RKV=q_KV.expand(rows, -1, -1),
        accept_RK=accept_RK,
        token_RW=token_R[:, None].expand(-1, draft + 1),
    )


def distance(law: dict[tuple[int, ...], float], table: Table) -> float:
    """Return the total variation to the law of a table."""
    assert abs(sum(law.values()) - 1) < EXACT
    return 0.5 * sum(abs(share - float(chance(table, text))) for text, share in law.items())


def one(value: float | Fraction) -> Fraction:
    return Fraction(value).limit_denominator(1000)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("draft", [1, 2])
def test_speculative_sampling_has_exactly_the_teachers_law(draft, seed):
    p, q = tables(seed, draft)
    law = round_law(Speculative(), p, q, p, draft)
    assert distance(law, p) < EXACT < FAR < distance(law, q), "the student's law is another one"


@pytest.mark.parametrize("seed", range(3))
def test_laws_with_zeros_are_kept_exactly(seed):
    p, q = tables(seed, 2)
    sure, half = (Fraction(0), Fraction(0), Fraction(1)), (Fraction(1, 2), Fraction(1, 2), Fraction(0))
    p[()], p[0,], p[1, 2] = (half, sure, half) if seed else (sure, half, sure)
    assert distance(round_law(Speculative(), p, q, p, 2), p) < EXACT


class Wrong(Speculative):
    """Speculative sampling with a mistake."""

    def __init__(self, stands: Callable[[Check], torch.Tensor], *, again: bool = False) -> None:
        super().__init__()
        object.__setattr__(self, "stands", stands)
        object.__setattr__(self, "again", again)

    def __call__(self, check: Check) -> Verdict:
        num_accepted_R = check.num_accepted(self.stands(check))
        if self.again:
            return Verdict(num_accepted_R, check.own_token(num_accepted_R))
        place_R = num_accepted_R.clamp(max=check.draft_RK.shape[1] - 1)
        return Verdict(
            num_accepted_R,
            check.residual_token(num_accepted_R, (check.p_at(place_R) - check.q_at(place_R)).clamp(min=0.0)),
        )


MISTAKES = {
    "min(1, q/p)": Wrong(lambda check: check.accept_RK * check.p_draft_RK < check.q_draft_RK),
    "accepts all": Wrong(lambda check: torch.ones_like(check.draft_RK, dtype=torch.bool)),
    "redraws from p": Wrong(lambda check: check.accept_RK * check.q_draft_RK < check.p_draft_RK, again=True),
    "accepts by p": Wrong(lambda check: check.accept_RK < check.p_draft_RK),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_rule_is_seen(mistake, seed):
    """The negative control of the laws above."""
    p, q = tables(seed, 2)
    assert distance(round_law(MISTAKES[mistake], p, q, p, 2), p) > FAR


def test_the_wrong_rule_of_the_control_is_right_without_its_mistake():
    p, q = tables(0, 2)
    right = Wrong(lambda check: check.accept_RK * check.q_draft_RK < check.p_draft_RK)
    assert distance(round_law(right, p, q, p, 2), p) < EXACT


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lenience", [0.0, 0.25, 0.5])
def test_lenience_has_the_law_of_its_closed_form(lenience, seed):
    """A token is drawn and stands with `min(q, p / (1 - l))`; the rest of the mass goes to what p has beyond it."""
    p, q = tables(seed, 1)
    p[()], q[()] = tuple(map(one, (1 / 6, 3 / 6, 2 / 6))), tables(seed, 1)[1][()]
    strict = 1 - one(lenience)
    kept = [min(given, wanted / strict) for wanted, given in zip(p[()], q[()], strict=True)]
    redrawn = residual(p[()], [strict * given for given in q[()]])
    expected = tuple(stands + (1 - sum(kept)) * share for stands, share in zip(kept, redrawn, strict=True))
    law = round_law(Speculative(lenience), p, q, p, 1, strict)
    first = [sum(share for text, share in law.items() if text[0] == token) for token in range(V)]
    assert first == pytest.approx([float(share) for share in expected], abs=EXACT)
    if lenience == 0:
        assert expected == p[()]
    elif p[()] != q[()]:
        gap = sum(abs(share - float(wanted)) for share, wanted in zip(first, p[()], strict=True)) / 2
        assert gap > FAR


P, Q = (0.5, 0.3, 0.2), (0.6, 0.1, 0.3)
"""At a total variation of 0.2."""


def greedy_check(laws: list[list[tuple[float, ...]]], drafts: list[list[int]], gaps: list[int], **more) -> Check:
    """Put drafts before a verifier, with the teacher's laws at each place."""
    p_RWV, draft_RK = torch.tensor(laws, dtype=torch.float64), torch.tensor(drafts)
    return Check(
        **{
            "logits_RWV": p_RWV.log(), "draft_RK": draft_RK, "num_draft_R": torch.tensor(gaps), "sampling": GREEDY,
            "q_RKV": None, "accept_RK": torch.zeros(draft_RK.shape).double(),
            "token_RW": torch.zeros(p_RWV.shape[:2]).double(), **more,
        }
    )  # fmt: skip


# In nats, -log p is 0.69, 1.20, 1.61, and the regret 0, 0.51, 0.92.
TAKEN_BACK = [
    ("surprise", 1.7, 3), ("surprise", 1.5, 2), ("surprise", 1.0, 1), ("surprise", 0.5, 0), ("surprise", math.inf, 3),
    ("regret", 1.0, 3), ("regret", 0.7, 2), ("regret", 0.3, 1), ("regret", 0.0, 1), ("regret", math.inf, 3),
]  # fmt: skip


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0)], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("measure", "threshold", "kept"), TAKEN_BACK)
def test_what_is_taken_back_by_hand(measure, threshold, kept, sampling):
    last = (0.1, 0.1, 0.8)
    check = greedy_check([[P, P, P, last]], [[0, 1, 2]], [3], sampling=sampling)
    verdict = ThresholdVerifier(threshold, measure)(check)
    assert verdict.num_accepted_R.tolist() == [kept]
    greedy = 2 if kept == 3 else 0
    assert verdict.token_R.tolist() == [greedy if sampling.greedy else 0], "the lowest draw is the first token"


def test_threshold_0_keeps_the_teachers_own_tokens_alone():
    generator = torch.Generator().manual_seed(3)
    p_RWV = torch.rand(50, 5, V, generator=generator, dtype=torch.float64)
    draft_RK = torch.where(
        torch.rand(50, 4, generator=generator) < 0.7,
        p_RWV[:, :-1].argmax(-1),
        torch.randint(V, (50, 4), generator=generator),
    )
    check = greedy_check(p_RWV.tolist(), draft_RK.tolist(), [4] * 50)
    verdict, own = ThresholdVerifier(0.0)(check), Speculative()(check)
    assert verdict.num_accepted_R.equal(own.num_accepted_R) and verdict.token_R.equal(own.token_R)
    assert set(verdict.num_accepted_R.tolist()) == {0, 1, 2, 3, 4}


def test_an_infinite_threshold_keeps_even_what_the_teacher_forbids():
    never = (0.0, 1.0, 0.0)
    for measure in ("surprise", "regret"):
        assert ThresholdVerifier(math.inf, measure)(
            greedy_check([[never] * 3], [[0, 2]], [2])
        ).num_accepted_R.tolist() == [2]
        assert ThresholdVerifier(1e9, measure)(greedy_check([[never] * 3], [[1, 2]], [2])).num_accepted_R.tolist() == [
            1
        ]


VERIFIERS = {
    "speculative": Speculative(),
    "lossy": Speculative(0.3),
    "take-back": ThresholdVerifier(0.0),
    "cascade": Cascade("opt", -math.inf),
    "token": Cascade("token-v3", 0.0),
}


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", VERIFIERS)
def test_rows_with_drafts_of_0_to_3_tokens_side_by_side(name, sampled):
    """One-hot laws; rows: no draft, all of three accepted, the first rejected, the second of two rejected."""
    hot = torch.eye(V, dtype=torch.float64)
    p_RWV = hot[torch.tensor([[1, 0, 0, 0], [0, 1, 2, 1], [2, 2, 2, 2], [1, 0, 1, 1]])]
    drafts = torch.tensor([[0, 0, 0], [0, 1, 2], [0, 2, 2], [1, 1, 1]])
    check = greedy_check(
        p_RWV.tolist(), drafts.tolist(), [0, 3, 1, 2], sampling=Sampling(1.0) if sampled else GREEDY,
        q_RKV=hot[drafts], token_RW=torch.full((4, 4), 0.5).double(), accept_RK=torch.full((4, 3), 0.99).double(),
    )  # fmt: skip
    verdict = VERIFIERS[name](check)
    assert verdict.num_accepted_R.tolist() == [0, 3, 0, 1]
    follows = [0, 2, 3] if not VERIFIERS[name].bonus else [0, 1, 2, 3]
    assert [verdict.token_R.tolist()[row] for row in follows] == [[1, 1, 2, 0][row] for row in follows]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", VERIFIERS)
def test_where_nobody_has_a_draft_the_teacher_writes(name, sampling):
    laws = [[(0.1, 0.1, 0.8)], [(0.2, 0.7, 0.1)]]
    check = greedy_check(laws, [[], []], [0, 0], sampling=sampling, token_RW=torch.full((2, 1), 0.5).double())
    check = replace(check, draft_RK=check.draft_RK.long())
    verdict = VERIFIERS[name](check)
    assert (verdict.num_accepted_R.tolist(), verdict.token_R.tolist()) == ([0, 0], [2, 1])


def test_rows_do_not_see_each_other():
    generator = torch.Generator().manual_seed(1)
    p_RWV, q_RKV = (torch.rand(30, width, V, generator=generator).double().softmax(-1) for width in (4, 3))
    noise = {"accept_RK": torch.rand(30, 3, generator=generator), "token_RW": torch.rand(30, 4, generator=generator)}
    drafts, gaps = torch.randint(V, (30, 3), generator=generator), torch.randint(4, (30,), generator=generator)
    for verifier in VERIFIERS.values():

        def judged(rows: list[int], width: int, verifier: Verifier = verifier) -> list[tuple[int, int]]:
            verdict = verifier(
                greedy_check(
                    p_RWV[rows, : width + 1].tolist(), drafts[rows, :width].tolist(), gaps[rows].tolist(),
                    sampling=Sampling(1.0), q_RKV=q_RKV[rows, :width],
                    accept_RK=noise["accept_RK"][rows, :width].double(),
                    token_RW=noise["token_RW"][rows, : width + 1].double(),
                )
            )  # fmt: skip
            return list(zip(verdict.num_accepted_R.tolist(), verdict.token_R.tolist(), strict=True))

        together = judged(list(range(30)), 3)
        alone = [judged([row], int(gaps[row]))[0] if gaps[row] else together[row] for row in range(30)]
        cut = [row for row in range(30) if together[row][0] < gaps[row] or verifier.bonus]
        assert [together[row] for row in cut] == [alone[row] for row in cut]


def test_a_draft_that_the_teacher_cannot_write_never_stands():
    """Even at the lowest draw; a copied draft has a probability of 1."""
    never = [(0.0, 0.25, 0.75)] * 2
    for q_RKV in (None, torch.tensor([[[1.0, 0.0, 0.0]]]).double()):
        check = greedy_check([never], [[0]], [1], sampling=Sampling(1.0), q_RKV=q_RKV)
        verdict = Speculative()(check)
        assert (verdict.num_accepted_R.tolist(), verdict.token_R.tolist()) == ([0], [1])


def test_a_cut_that_leaves_no_mass_is_followed_by_the_teachers_law():
    """Both models hold a draft token impossible and agree on all others: nothing is left of p beyond q."""
    law = (0.25, 0.75, 0.0)
    check = greedy_check(
        [[law, law]], [[2]], [1], sampling=Sampling(1.0), q_RKV=torch.tensor([[law]]).double(),
        token_RW=torch.full((1, 2), 0.5).double(),
    )  # fmt: skip
    verdict = Speculative()(check)
    assert (verdict.num_accepted_R.tolist(), verdict.token_R.tolist()) == ([0], [1])


def test_a_copied_draft_keeps_the_teachers_law():
    """Accepted with p(v), else drawn from p without v."""
    p, _ = tables(2, 1)
    q = {prefix: (Fraction(0), Fraction(1), Fraction(0)) for prefix in p}
    noise = grid([share for law in p.values() for share in (law[0], law[0] / (1 - law[1]), sum(law[:2]))])
    uniforms = torch.cartesian_prod(grid([p[()][1]]), noise)
    check = check_of(p, q, (1,), uniforms[:, :1], uniforms[:, 1])
    copied = Check(**{**{name: getattr(check, name) for name in Check.__dataclass_fields__}, "q_RKV": None})
    verdict = Speculative()(copied)
    first_R = torch.where(verdict.num_accepted_R == 1, 1, verdict.token_R)
    share_V = torch.bincount(first_R, minlength=V).double() / len(first_R)
    assert share_V.tolist() == pytest.approx(list(map(float, p[()])), abs=EXACT)


def test_no_draft_at_all_is_the_teachers_own_token():
    for sampling, token in ((GREEDY, 1), (Sampling(1.0), 2)):
        check = Check(
            torch.tensor([[[0.2, 0.5, 0.3]]]).double().log(), torch.empty(1, 0, dtype=torch.long), torch.tensor([0]),
            sampling, None, torch.empty(1, 0).double(), torch.tensor([[0.9]]).double(),
        )  # fmt: skip
        for verifier in (Speculative(), Speculative(0.5), ThresholdVerifier(1.0)):
            verdict = verifier(check)
            assert (verdict.num_accepted_R.tolist(), verdict.token_R.tolist()) == ([0], [token])


def test_greedy_lenience_by_hand():
    """Accepted where p is at least `1 - l` of the best: 0.3 of 0.5 is 0.6."""
    check = greedy_check([[P, P, P]], [[0, 1]], [2])
    assert [int(Speculative(lenience)(check).num_accepted_R) for lenience in (0.0, 0.35, 0.45)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Speculative(1.0), r"lenience must be in \[0, 1\) \(0 is lossless\), got 1.0"),
        (lambda: Speculative(-0.1), "lenience must be in .* got -0.1"),
        (lambda: Speculative(math.nan), "lenience must be a number, got nan"),
        (lambda: ThresholdVerifier(-1.0), "threshold must be at least 0, got -1.0"),
        (lambda: ThresholdVerifier(math.nan), "threshold must be a number, got nan"),
        (
            lambda: ThresholdVerifier(1.0, "regrett"),
            "measure must be one of regret, surprise, got 'regrett'; did you mean",
        ),
        (lambda: Cascade("token-v4", 0.1), "cascade must be one of chow, .* got 'token-v4'; did you mean"),
    ],
)
def test_a_wrong_setting_is_refused(make, message):
    with pytest.raises(WheelsError, match=message):
        make()


def test_a_cascade_over_copied_drafts_is_refused():
    with pytest.raises(WheelsError, match="a draft that is copied has none; let the student draft"):
        Cascade("opt", 0.0)(greedy_check([[P, P]], [[0]], [1]))
