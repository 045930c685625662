"""What computes for a pair and a method: both models here, or a teacher that writes spans and shows no logits."""

from __future__ import annotations

from wheels.decoding.across.pair import TextPair
from wheels.decoding.across.passes import TextPasses
from wheels.decoding.methods.choices import PACED
from wheels.decoding.methods.method import Method
from wheels.decoding.methods.rule import EvenRule, Rule
from wheels.decoding.methods.rules import HeadScore
from wheels.decoding.methods.verify import Cascade
from wheels.decoding.params import DecodeParams
from wheels.decoding.passes import Passes
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.passes import RemotePasses, check_server
from wheels.decoding.sequences import TextBatch
from wheels.errors import WheelsError
from wheels.models.pair import Pair
from wheels.models.student_pair import StudentPair


def passes_for(pair: Pair, texts: TextBatch, params: DecodeParams, method: Method, overhead: int) -> Passes:
    """Return what computes for a pair and a method; the arguments are those of `Passes`.

    Raises:
        WheelsError: where the method needs more of its teacher than it tells.
    """
    kind: type[Passes] = Passes
    if isinstance(pair, StudentPair):
        check_told(pair, method, params)
        kind = TextPasses
    if isinstance(pair, RemotePair):
        check_server(pair, params)
        kind = RemotePasses
    drafts = method.draft_probs(params.sampling) if pair.shows_logits else 0
    score = getattr(method.rule, "score", None)
    # A pass that computes the gain tells the head the text's own budget; dollars tell it another.
    head = score.head if isinstance(score, HeadScore) and method.mode != PACED else None
    return kind(pair, texts, params, overhead=overhead, longest_draft=drafts, head=head)


def plain_passes(pair: Pair, texts: TextBatch, params: DecodeParams) -> Passes:
    """Return what computes for a pair that no method leads: it is asked for what the teacher writes next, alone."""
    if isinstance(pair, TextPair):
        return TextPasses(pair, texts, params)
    return (RemotePasses if isinstance(pair, RemotePair) else Passes)(pair, texts, params)


def check_told(pair: StudentPair, method: Method, params: DecodeParams) -> None:
    """Raise a `WheelsError` where a method needs more of its teacher than it tells."""
    told, other = f"and {pair.teacher_told}", pair.other_teacher
    if method.rule is not None and method.rule.needs_teacher:
        raise WheelsError(
            f"rule {method.rule.name!r} reads the teacher's logits before every token, {told}; use another rule, or "
            f"{other}"
        )
    if method.verifier is not None:
        check_verified(pair, method)
    if pair.most_per_call != 1 and method.between:
        check_spans(pair, method)
    if params.logits_processor is not None:
        raise WheelsError(f"logits_processor changes the logits of both models, {told}; leave it out")


def check_verified(pair: StudentPair, method: Method) -> None:
    """Raise a `WheelsError` where a teacher cannot verify drafts as a method does."""
    told, other = f"and {pair.teacher_told}", pair.other_teacher
    if not pair.verifies_text:
        raise WheelsError(
            f"method {method.name!r} verifies drafts by the teacher's logits, {told}; use deferral, or {other}"
        )
    if isinstance(method.verifier, Cascade):
        raise WheelsError(
            f"method {method.name!r} compares two distributions over one vocabulary, {told}; use speculative, or "
            f"{other}"
        )
    if method.adaptive:
        raise WheelsError(f"drafts of a length that adapts follow from measured passes, {told}; give a fixed length")


def check_spans(pair: StudentPair, method: Method) -> None:
    """Raise a `WheelsError` where a budget would not be kept, because a call may buy several tokens."""
    bought = "as many tokens as its text takes" if pair.most_per_call is None else f"up to {pair.most_per_call} tokens"
    if isinstance(method.rule, EvenRule):
        raise WheelsError(f"a call buys {bought}, and rule {method.rule.name!r} counts on one; use another rule")
    # Thresholds may have been measured with such calls.
    measured = pair.by_text and not (isinstance(method.rule, Rule) and method.rule.known_rate)
    if method.mode == "online" or (method.mode == "average" and measured):
        return
    raise WheelsError(
        f"a call buys {bought}, and {method.mode} mode counts on one: use budget_mode online, which counts those that "
        f"came{'' if pair.most_per_call is None else ', or span tokens:1'}"
    )
