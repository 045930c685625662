"""The rules of the project: one record each, with its score. Imports nothing heavy, so that `--help` is instant.

To add a rule, write its score and its record here; what commands, reports and pictures know of it comes from the
record. A rule of your own needs no change: `--rule my_rules.py:gap` takes any `Rule` of a file or a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wheels.decoding.methods.rule import EvenRule, Rule
from wheels.errors import WheelsError, did_you_mean
from wheels.own_code import FORMS, is_place, read_own

if TYPE_CHECKING:
    import torch

    from wheels.decoding.step import Step
    from wheels.policy.head import DeferralHead


class HeadScore:
    """The expected gain of a call, predicted by a trained head that is told the budget.

    In nats, but for `gate`: there it is the logit that the student's token is not the teacher's. A compiled student
    computes it in its own pass, which the engine asks for by `head`.
    """

    def __init__(self, head: DeferralHead) -> None:
        self.head = head

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the gain, `[B]`."""
        import torch

        if step.gain_B is not None:
            return step.gain_B
        with torch.no_grad():
            return self.head.gain(step.features_BF, step.budget_B)


class RouterScore(HeadScore):
    """The predicted gain of having the teacher write the whole text, asked once, before anything is written.

    The routing of RouteLMT (Luo et al. 2026, arXiv 2604.22520): the text is the teacher's where its first state's gain
    exceeds the threshold. Later states follow: plus infinity where the teacher wrote every token so far, else minus.
    Left out: the variant that guards against losses.
    """

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the gain or what follows, `[B]`."""
        import torch

        gain_B = super().__call__(step)
        follows_B = torch.where(step.calls_B == step.position_B, float("inf"), float("-inf")).to(gain_B)
        return torch.where(step.position_B == 0, gain_B, follows_B)


def maxprob_score(step: Step) -> torch.Tensor:
    """`1 - max_v q(v)`: Chow's rule (Chow 1970); the fallback of BiLD (Kim et al. 2023, arXiv 2302.07863)."""
    return 1.0 - step.log_q_BV.amax(-1).exp()


def entropy_score(step: Step) -> torch.Tensor:
    """`H(q)`, in nats."""
    from wheels.policy.features import entropy

    return entropy(step.log_q_BV)


def margin_score(step: Step) -> torch.Tensor:
    """`-(q_1 - q_2)`, the two best probabilities."""
    best_B2 = step.log_q_BV.topk(2, dim=-1).values.exp()
    return best_B2[:, 1] - best_B2[:, 0]


def random_score(step: Step) -> torch.Tensor:
    """A uniform number in [0, 1): a call rate of `r` is the threshold `1 - r`."""
    return step.noise_B


def even_score(step: Step) -> torch.Tensor:
    """The row's phase in [0, 1), the same at all its positions."""
    return step.row_noise_B


def first_score(step: Step) -> torch.Tensor:
    """`u - 1 - position`, `u` drawn from [0, 1): the threshold `-k` calls at the first k tokens, k any real number.

    Without the draw k would be whole, and use would jump from one k to the next: with it the token after the last whole
    one is the teacher's in the share of the texts that is left over.
    """
    return step.noise_B - 1.0 - step.position_B


def foresight_score(step: Step) -> torch.Tensor:
    """The true greedy regret, with the teacher at hand: a reference for every rule that predicts it.

    No ceiling: it knows what the next token costs, and not what a call does to the rest of the text.

    Where both models agree the regret is 0; such ties are broken by the student's entropy, so that every budget has a
    threshold.
    """
    return step.regret_B + 1e-5 * entropy_score(step)


# Okabe and Ito's colours, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/), and six of
# Tol's muted ones (https://personal.sron.nl/~pault/); every rule has its own mark besides.
BUILT_IN = (
    Rule(
        "learned",
        head=HeadScore,
        label="where a call is worth its price",
        color="#D55E00",
        mark="o",
        in_nats=True,
    ),
    Rule(
        "paired",
        head=HeadScore,
        label="where a call helps the metric",
        color="#CC6677",
        mark="h",
        in_nats=True,
    ),
    Rule(
        "regret",
        head=HeadScore,
        label="where a token loses most",
        color="#0072B2",
        mark="s",
        in_nats=True,
    ),
    Rule(
        "gate",
        head=HeadScore,
        label="where the models differ",
        color="#332288",
        mark="p",
    ),
    Rule(
        "router",
        head=RouterScore,
        label="in whole texts",
        color="#882255",
        mark="*",
    ),
    Rule(
        "reinforce",
        head=HeadScore,
        label="where sampled calls paid off",
        color="#AA4499",
        mark="d",
        in_nats=True,
    ),
    Rule(
        "maxprob",
        maxprob_score,
        label="at improbable tokens",
        color="#009E73",
        mark="^",
    ),
    Rule(
        "entropy",
        entropy_score,
        label="at spread-out distributions",
        color="#CC79A7",
        mark="v",
    ),
    Rule("margin", margin_score, label="where two tokens are close", color="#E69F00", mark="D"),
    Rule(
        "random",
        random_score,
        label="at random",
        color="#56B4E9",
        mark="X",
        draws=True,
        known_rate=True,
        levels=((0.0, 1.0), (1.0, 0.0)),
    ),
    EvenRule(
        "every-k",
        even_score,
        label="at evenly spaced tokens",
        color="#999933",
        mark="<",
        draws=True,
        known_rate=True,
    ),
    Rule("first-k", first_score, label="at the start of each text", color="#44AA99", mark=">"),
    Rule(
        "foresight",
        foresight_score,
        label="knows the teacher's next token",
        color="#6E6E6E",
        mark="P",
        needs_teacher=True,
    ),
)
"""The rules that the package brings, in the order in which commands list them."""
RULES: dict[str, Rule] = {rule.name: rule for rule in BUILT_IN}
"""Every rule that has a name: the package's own, then those that `find_rule` has read."""
RULE_NAMES = tuple(rule.name for rule in BUILT_IN)
"""What the package's own rules are called by."""
TRAINED = tuple(rule.name for rule in BUILT_IN if rule.head is not None)
"""The rules that read a trained head: the agent's, and those of the baselines that it is compared with."""
KNOWN_RATE = tuple(rule.name for rule in BUILT_IN if rule.known_rate)
"""The rules that call at a known rate, and need no calibration."""


def check_rule(field: str, given: str) -> str:
    """Return what a command was given for a rule, where that is a name or a place; the place is read later.

    Raises:
        WheelsError: for a name that no rule has.
    """
    if is_place(given) or given in RULES:
        return given
    known = f"one of {', '.join(RULES)}, or a rule of your own ({FORMS})"
    raise WheelsError(f"{field} must be {known}, got {given!r}{did_you_mean(given, RULES)}")


RULE_CHOICES: dict[str, Any] = {"choices": RULE_NAMES, "check": check_rule}
"""The metadata of an option that takes a rule."""
OWN_RULE = f", or {FORMS} for a wheels.Rule of your own"
"""What the help of such an option adds."""


def find_rule(given: str) -> Rule:
    """Return a rule by its name, or by where it stands; its name is known from then on.

    Args:
        given: A name, or `FILE.py:NAME` or `package.module:NAME`, where a `Rule` has that name.

    Raises:
        WheelsError: for an unknown name, a file that cannot be read, or a rule with the name of one of the package's.
    """
    if not is_place(given):
        return RULES[check_rule("rule", given)]
    rule = _read(given)
    if any(rule.name == own.name for own in BUILT_IN):
        raise WheelsError(f"{given} is named {rule.name!r}, as one of the package's rules is; give it another name")
    RULES[rule.name] = rule
    return rule


def find_rules(given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of several rules, each found as by `find_rule`.

    Raises:
        WheelsError: as `find_rule`, and for two rules of one name.
    """
    names = [find_rule(each).name for each in given]
    for name in names:
        if names.count(name) > 1:
            raise WheelsError(f"two of the rules {', '.join(given)} are named {name!r}; give one of them another name")
    return tuple(names)


def _read(given: str) -> Rule:
    """Return the rule that stands at `FILE.py:NAME` or `package.module:NAME`."""
    found, code = read_own(given, "rules")
    place, _, name = given.rpartition(":")
    if not isinstance(found, Rule):
        raise WheelsError(f"{place} has no wheels.Rule named {name}; write {name} = wheels.Rule(name=..., score=...)")
    return replace(found, place=given, code=code)
