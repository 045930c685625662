"""From the raw rounds to figures: speed beside transformers' own in the same round, and against what could be at best.

Four ratios say where time goes. The scheduler's overhead: seconds over the sum of the bare forward passes that were
really run. The loop's: seconds over those within the forward passes of the same run. The distance to the limit: seconds
over the formula of `wheels.benchmarks.speed.limits`. The overhead of a forward pass: its seconds over the bound of the
machine. Where the engine has a fast pass of its own, its contestants are held against that: the library's would be
no limit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wheels import __version__
from wheels.benchmarks.speed import limits
from wheels.benchmarks.speed.config import REFERENCE, is_library
from wheels.benchmarks.speed.forward_timer import Bare, Shape, on_grid
from wheels.benchmarks.speed.limits import Seconds, Spread
from wheels.benchmarks.speed.records import Played, Round
from wheels.benchmarks.speed.systems import KNOWN, Contestant
from wheels.decoding.methods.method import LONGEST_DRAFT
from wheels.models.pair import Pair

MODELS = ("student", "teacher")
STEPS = (("student", False), ("teacher", False), ("teacher", True))
"""The passes of the formulas: whose, and whether every position is scored."""


@dataclass(frozen=True)
class Setting:
    """What all figures have in common."""

    rows: int
    """Texts that each contestant decoded."""
    prefix: int
    """Tokens of a prompt on average; 1 where an encoder reads the source."""
    source: int
    """Tokens of a source on average, where an encoder reads it; else 0."""
    longest: int
    """The most tokens of an output."""
    draft: int
    """K, tokens of a draft."""
    budget: float
    """The share of tokens that the teacher writes in deferral."""
    place: str
    """Task, rows, student and teacher: how each signature begins."""


@dataclass(frozen=True)
class Figures:
    """One contestant at one batch size."""

    name: str
    label: str
    """The name as a table shows it."""
    seconds: list[float]
    """Of each round."""
    tokens: int
    """Written in a round."""
    tokens_per_second: Spread
    speedup: Spread
    """Tokens a second over those of the reference in the same round."""
    passes_per_token: dict[str, float]
    """By model: forward passes that served a row, over its tokens."""
    positions_per_token: dict[str, float]
    """By model: positions that its decoder read, padding and prompts included."""
    use: float | None
    """The share of tokens that the teacher wrote; None: transformers does not tell."""
    acceptance: float | None
    """The share of the judged draft tokens that stood; None where none was judged."""
    waste_per_pass: float | None
    """Draft tokens that were written in vain, over the teacher's passes over a row."""
    scheduler_overhead: Spread
    """Seconds over the sum of the bare forward passes."""
    loop_overhead: Spread | None
    """Seconds over those within the models' forwards of the same run; None: not told."""
    limit_tokens_per_second: float | None
    """By its formula; None: it has none."""
    distance: Spread | None
    """Seconds over those of the formula."""
    same_as: str | None
    """Whose outputs it must repeat."""
    differing: int | None
    """Rows of which it did not, in the worst round; None: it may write something else, or the other did not run."""
    different: list[int]
    """The first of these rows."""
    signature: str


@dataclass(frozen=True)
class Forward:
    """One bare forward pass, and the bound of the machine."""

    model: str
    kind: str
    """`decode`: the library's; `lean`: the engine's own."""
    rows: int
    width: int
    context: int
    seconds: Spread
    overhead: Spread
    """Seconds over the bound of the same round: `max(bytes / bandwidth, flops / peak)`."""


@dataclass(frozen=True)
class Batch:
    """All contestants at one batch size."""

    batch_size: int
    figures: list[Figures]
    forwards: list[Forward]
    rounds: list[Round]


@dataclass(frozen=True)
class Speed:
    """A whole comparison."""

    about: dict[str, Any]
    """Configuration, versions, threads, load, number format: what a reader must know to believe a number."""
    notes: list[str]
    batches: list[Batch] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return everything as one JSON object."""
        return {
            **self.about,
            "notes": self.notes,
            "batches": [
                {
                    "batch_size": batch.batch_size,
                    "contestants": [asdict(each) for each in batch.figures],
                    "forwards": [asdict(each) for each in batch.forwards],
                    "rounds": [
                        {
                            "order": each.order,
                            "load_average": each.load_average,
                            "machine": asdict(each.machine),
                            "seconds": {name: played.seconds for name, played in each.played.items()},
                        }
                        for each in batch.rounds
                    ],
                }
                for batch in self.batches
            ],
        }


class Limits:
    """The formulas at one batch size, fed with bare forward passes.

    Args:
        setting: What all figures have in common.
        bare: Times the forward passes.
        batch_size: Asked for; no more rows can be in a pass than there are.
        played: What the contestants did: half of an output on average lies before a token.
    """

    def __init__(self, setting: Setting, bare: Bare, batch_size: int, played: Mapping[str, Played]) -> None:
        self.setting, self.bare = setting, bare
        self.batch = min(batch_size, setting.rows)
        tokens = statistics.mean(each.tokens for each in played.values()) / setting.rows
        self.context = on_grid(setting.prefix + round(tokens / 2))
        ran = {(shape.model, shape.kind) for each in played.values() for shape in each.shapes}
        self.lean = [model for model in MODELS if (model, "lean") in ran]
        """The models that the engine reads in its own way."""

    def forward(self, model: str, kind: str, width: int, head: int = 1) -> Shape:
        """Return a decoder pass in the middle of an output."""
        return Shape(model, kind, self.batch, width, self.context, head)

    @property
    def shown(self) -> list[Shape]:
        """The passes whose own overhead is reported: a step of each model, and one that verifies a draft."""
        verified = self.setting.draft + 1
        steps = [("student", 1), ("teacher", 1), ("teacher", verified)]
        kinds = {model: ["decode", "lean"] if model in self.lean else ["decode"] for model in MODELS}
        return [self.forward(model, kind, width, width) for model, width in steps for kind in kinds[model]]

    def of(self, contestant: Contestant, played: Played) -> float | None:
        """Compute the seconds that all tokens of a contestant would cost at best; None: it has no formula."""
        each = self._token(contestant, played)
        if each is None:
            return None
        models = [
            model
            for model in MODELS
            if (model == "student" and contestant.formula != "teacher")
            or (model == "teacher" and contestant.formula != "student" and played.teacher_tokens != 0)
        ]
        return played.tokens * each + sum(self._prefill(model, self._kind(contestant, model)) for model in models)

    def _token(self, contestant: Contestant, played: Played) -> float | None:
        """Compute the seconds of a token, without what the sources cost."""
        student, teacher, verify = (self._seconds(contestant, *each) for each in STEPS)
        batch, longest = self.batch, self.setting.longest
        if contestant.formula in MODELS:
            return limits.alone(student if contestant.formula == "student" else teacher, batch)
        if contestant.formula == "deferral":
            use = (played.teacher_tokens or 0) / played.tokens
            return limits.deferral(student, teacher, batch, use, longest)
        if contestant.formula is None or not played.checked:
            return None
        acceptance = played.accepted / played.checked
        if contestant.formula == "speculation":
            return limits.speculation(student, verify, batch, acceptance, self.setting.draft)
        return limits.best_speculation(student, verify, batch, acceptance, min(LONGEST_DRAFT, longest))

    def _kind(self, contestant: Contestant, model: str) -> str:
        """Return in whose pass a contestant reads a model: ours in a lean one, where there is one."""
        return "lean" if model in self.lean and not is_library(contestant.name) else "decode"

    def _seconds(self, contestant: Contestant, model: str, every: bool) -> Seconds:
        """Return t_M at this batch size, the last position scored, or every one."""
        kind = self._kind(contestant, model)
        return lambda width: self.bare.seconds(self.forward(model, kind, width, width if every else 1))

    def _prefill(self, model: str, decode: str) -> float:
        """Compute what reading all sources costs: of a prompt without its last token, which a step reads."""
        width = self.setting.source or self.setting.prefix - 1
        if width < 1:
            return 0.0
        encode = "encode" if decode == "decode" else "lean-encode"
        kind, head = (encode, 0) if self.setting.source else (decode, 1)
        return self.setting.rows / self.batch * self.bare.seconds(Shape(model, kind, self.batch, width, 0, head))


def time_forwards(
    setting: Setting, batch_size: int, played: Mapping[str, Played], bare: Bare, progress: Callable[[], object]
) -> None:
    """Time every bare forward pass that the figures of a round need: those that were run, and those of the formulas."""
    bare.measure({shape for each in played.values() for shape in each.shapes}, progress)
    at_best = Limits(setting, bare, batch_size, played)
    for name, each in played.items():
        at_best.of(KNOWN[name], each)
    bare.measure(at_best.shown, progress)


def summarise(setting: Setting, batch_size: int, rounds: Sequence[Round], pair: Pair) -> Batch:
    """Return the figures of all contestants at one batch size: each round is held against its own forward passes."""
    at_best = [Limits(setting, Bare(pair, setting.source, each.seconds), batch_size, each.played) for each in rounds]
    names = [name for name in KNOWN if name in rounds[0].played]
    figures = [_figures(KNOWN[name], setting, batch_size, rounds, at_best) for name in names]
    shown = zip(*(best.shown for best in at_best), strict=True)
    forwards = [_forward(shapes, rounds, [best.bare for best in at_best]) for shapes in shown]
    return Batch(batch_size, figures, forwards, list(rounds))


def _forward(shapes: Sequence[Shape], rounds: Sequence[Round], bare: Sequence[Bare]) -> Forward:
    """Hold one forward pass, of which each round has its shape, against the bound of the machine."""
    seconds, overheads = [], []
    for shape, each, timed in zip(shapes, rounds, bare, strict=True):
        cost = timed.cost(shape)
        seconds.append(timed.seconds(shape))
        overheads.append(
            seconds[-1] / limits.roofline(cost.moved, cost.flops, each.machine.bandwidth, each.machine.peak)
        )
    first = shapes[0]
    return Forward(
        first.model, first.kind, first.rows, first.width, first.context, Spread.of(seconds), Spread.of(overheads)
    )


def _figures(
    contestant: Contestant, setting: Setting, batch_size: int, rounds: Sequence[Round], at_best: Sequence[Limits]
) -> Figures:
    """Return the figures of one contestant."""
    name = contestant.name
    played = [each.played[name] for each in rounds]
    rates = [each.tokens / each.seconds for each in played]
    theirs = [each.played[REFERENCE].tokens / each.played[REFERENCE].seconds for each in rounds]
    bound = [best.of(contestant, each) for best, each in zip(at_best, played, strict=True)]
    bare = [bare_seconds(each, best.bare) for best, each in zip(at_best, played, strict=True)]
    distances = [each.seconds / best for each, best in zip(played, bound, strict=True) if best is not None]
    best_rates = [each.tokens / best for each, best in zip(played, bound, strict=True) if best is not None]
    loops = [each.seconds / each.forward_seconds for each in played if each.forward_seconds]
    worst = max(played, key=lambda each: each.differing or 0)
    first = played[0]
    waste = statistics.median(map(_waste, played))
    budget = f"{setting.budget:g}" if contestant.formula == "deferral" else "-"
    return Figures(
        name=name,
        label=contestant.label(batch_size),
        seconds=[each.seconds for each in played],
        tokens=first.tokens,
        tokens_per_second=Spread.of(rates),
        speedup=Spread.of([own / other for own, other in zip(rates, theirs, strict=True)]),
        passes_per_token={
            model: statistics.median(_per_token(each, model, False) for each in played) for model in MODELS
        },
        positions_per_token={
            model: statistics.median(_per_token(each, model, True) for each in played) for model in MODELS
        },
        use=None if first.teacher_tokens is None else first.teacher_tokens / first.tokens,
        acceptance=first.accepted / first.checked if first.checked else None,
        waste_per_pass=waste if first.drafted else None,
        scheduler_overhead=Spread.of([each.seconds / least for each, least in zip(played, bare, strict=True)]),
        loop_overhead=Spread.of(loops) if loops else None,
        limit_tokens_per_second=statistics.median(best_rates) if best_rates else None,
        distance=Spread.of(distances) if distances else None,
        same_as=contestant.same_as,
        differing=worst.differing,
        different=worst.different,
        signature=f"{setting.place}|{name}|{budget}|0|batch:{batch_size}|wheels:{__version__}",
    )


def bare_seconds(played: Played, bare: Bare) -> float:
    """Compute the sum of the bare forward passes that were really run."""
    return math.fsum(count * bare.seconds(shape) for shape, count in played.shapes.items())


def _per_token(played: Played, model: str, positions: bool) -> float:
    """Compute a model's row-passes, or the positions that these read, over the tokens written."""
    shapes = [(shape, count) for shape, count in played.shapes.items() if shape.model == model and not shape.encodes]
    return sum(count * shape.rows * (shape.width if positions else 1) for shape, count in shapes) / played.tokens


def _waste(played: Played) -> float:
    """Compute the draft tokens in vain over the teacher's row-passes."""
    passes = _per_token(played, "teacher", False) * played.tokens
    return (played.drafted - played.accepted) / passes if passes else 0.0
