"""From rounds to figures: speed against the fastest teacher alone in the same round, and against a theoretical limit.

Four ratios say where time goes. The scheduler's overhead: seconds over the sum of the bare forward passes that were
really run. The loop's: seconds over those within the forward passes of the same run. The distance to the limit: seconds
over the formula of `wheels.benchmarks.speed.limits`. The overhead of a forward pass: its seconds over the bound of the
machine. Where the engine has a fast pass of its own, its systems are held against that: the library's would be
no limit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from wheels import __version__
from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.speed import limits
from wheels.benchmarks.speed.config import REFERENCE, is_alone, is_library
from wheels.benchmarks.speed.forward_timer import ForwardTimer, Shape, on_grid
from wheels.benchmarks.speed.limits import Seconds
from wheels.benchmarks.speed.quality import Judge, judged, same_texts
from wheels.benchmarks.speed.records import Round, Timing
from wheels.benchmarks.speed.systems import KNOWN, System
from wheels.decoding.methods.method import LONGEST_DRAFT
from wheels.models.pair import Pair

MODELS = ("student", "teacher")
SHOWN = 5
"""Rows that are named where outputs differ."""
STEPS = (("student", False), ("teacher", False), ("teacher", True))
"""The passes of the formulas: whose, and whether every position is scored."""


@dataclass(frozen=True)
class WorkloadFacts:
    """What all figures have in common."""

    rows: int
    """Texts that each system decoded."""
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
    rounded: tuple[str, ...]
    """The models whose weights this engine rounds: `student`, `teacher`."""
    place: str
    """Task, rows, student and teacher: how each signature begins."""


@dataclass(frozen=True)
class Figures:
    """One system at one batch size."""

    name: str
    label: str
    """The name as a table shows it."""
    seconds: list[float]
    """Of each round."""
    tokens: int
    """Written in a round."""
    tokens_per_second: Spread
    speedup: Spread
    """Tokens a second over those of the fastest teacher alone in the same round."""
    equal: float | None
    """The share of the texts that are those of transformers' teacher; None: not noted."""
    quality: dict[str, dict[str, float]] | None
    """By metric: `value`, and `difference` to that of the teacher's texts with its interval, `low` to `high`; None:
    there are no references."""
    passes_per_token: dict[str, float | None]
    """By model: forward passes that served a row, over its tokens; None: not told."""
    positions_per_token: dict[str, float | None]
    """By model: positions that its decoder read, padding and prompts included."""
    use: float | None
    """The share of tokens that the teacher wrote; None: transformers does not tell."""
    acceptance: float | None
    """The share of the judged draft tokens that stood; None where none was judged."""
    waste_per_pass: float | None
    """Draft tokens that were written in vain, over the teacher's passes over a row."""
    scheduler_overhead: Spread | None
    """Seconds over the sum of the bare forward passes; None: not told which."""
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
class BatchFigures:
    """All systems at one batch size."""

    batch_size: int
    reference: str
    """The fastest system in which the teacher writes alone: what `speedup` is over."""
    figures: list[Figures]
    forwards: list[Forward]
    rounds: list[Round]


@dataclass(frozen=True)
class Speed:
    """A whole comparison."""

    about: dict[str, Any]
    """Configuration, versions, threads, load, number format: what a reader must know to believe a number."""
    notes: list[str]
    batches: list[BatchFigures] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return everything as one JSON object."""
        return {
            **self.about,
            "notes": self.notes,
            "batches": [
                {
                    "batch_size": batch.batch_size,
                    "reference": batch.reference,
                    "contestants": [asdict(each) for each in batch.figures],
                    "forwards": [asdict(each) for each in batch.forwards],
                    "rounds": [
                        {
                            "order": each.order,
                            "load_average": each.load_average,
                            "machine": asdict(each.machine),
                            "seconds": {name: timing.seconds for name, timing in each.timings.items()},
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
        facts: What all figures have in common.
        timer: Times the forward passes.
        batch_size: Asked for; no more rows can be in a pass than there are.
        timings: What the systems did: half of an output on average lies before a token.
    """

    def __init__(
        self, facts: WorkloadFacts, timer: ForwardTimer, batch_size: int, timings: Mapping[str, Timing]
    ) -> None:
        self.facts, self.timer = facts, timer
        self.batch = min(batch_size, facts.rows)
        tokens = statistics.mean(each.tokens for each in timings.values()) / facts.rows
        self.context = on_grid(facts.prefix + round(tokens / 2))
        ran = {(shape.model, shape.kind) for each in timings.values() for shape in each.shapes}
        self.lean = [model for model in MODELS if (model, "lean") in ran]
        """The models that the engine reads in its own way."""

    def forward(self, model: str, kind: str, width: int, head: int = 1) -> Shape:
        """Return a decoder pass in the middle of an output."""
        return Shape(model, kind, self.batch, width, self.context, head)

    @property
    def shown(self) -> list[Shape]:
        """The passes whose own overhead is reported: a step of each model, and one that verifies a draft."""
        verified = self.facts.draft + 1
        steps = [("student", 1), ("teacher", 1), ("teacher", verified)]
        kinds = {model: ["decode", "lean"] if model in self.lean else ["decode"] for model in MODELS}
        return [self.forward(model, kind, width, width) for model, width in steps for kind in kinds[model]]

    def of(self, system: System, timing: Timing) -> float | None:
        """Compute the seconds that all tokens of a system would cost at best; None: it has no formula."""
        each = self._token(system, timing)
        if each is None:
            return None
        models = [
            model
            for model in MODELS
            if (model == "student" and system.formula != "teacher")
            or (model == "teacher" and system.formula != "student" and timing.teacher_tokens != 0)
        ]
        return timing.tokens * each + sum(self._prefill(model, self._kind(system, model)) for model in models)

    def _token(self, system: System, timing: Timing) -> float | None:
        """Compute the seconds of a token, without what the sources cost."""
        student, teacher, verify = (self._seconds(system, *each) for each in STEPS)
        batch, longest = self.batch, self.facts.longest
        if system.formula in MODELS:
            return limits.alone(student if system.formula == "student" else teacher, batch)
        if system.formula == "deferral":
            use = (timing.teacher_tokens or 0) / timing.tokens
            return limits.deferral(student, teacher, batch, use, longest)
        if system.formula is None or not timing.checked:
            return None
        acceptance = timing.accepted / timing.checked
        if system.formula == "speculation":
            return limits.speculation(student, verify, batch, acceptance, self.facts.draft)
        return limits.best_speculation(student, verify, batch, acceptance, min(LONGEST_DRAFT, longest))

    def _kind(self, system: System, model: str) -> str:
        """Return in whose pass a system reads a model: ours in a lean one, where there is one."""
        return "lean" if model in self.lean and not is_library(system.name) else "decode"

    def _seconds(self, system: System, model: str, every: bool) -> Seconds:
        """Return t_M at this batch size, the last position scored, or every one."""
        kind = self._kind(system, model)
        return lambda width: self.timer.seconds(self.forward(model, kind, width, width if every else 1))

    def _prefill(self, model: str, decode: str) -> float:
        """Compute what reading all sources costs: of a prompt without its last token, which a step reads."""
        width = self.facts.source or self.facts.prefix - 1
        if width < 1:
            return 0.0
        encode = "encode" if decode == "decode" else "lean-encode"
        kind, head = (encode, 0) if self.facts.source else (decode, 1)
        return self.facts.rows / self.batch * self.timer.seconds(Shape(model, kind, self.batch, width, 0, head))


def time_forwards(
    facts: WorkloadFacts,
    batch_size: int,
    timings: Mapping[str, Timing],
    timer: ForwardTimer,
    progress: Callable[[], object],
) -> None:
    """Time every bare forward pass that the figures of a round need: those that were run, and those of the formulas."""
    timer.measure({shape for each in timings.values() for shape in each.shapes}, progress)
    at_best = Limits(facts, timer, batch_size, timings)
    for name, each in timings.items():
        at_best.of(KNOWN[name], each)
    timer.measure(at_best.shown, progress)


def summarise(
    facts: WorkloadFacts, batch_size: int, rounds: Sequence[Round], pair: Pair, judge: Judge | None = None
) -> BatchFigures:
    """Return the figures of all systems at one batch size: each round is held against its own forward passes."""
    at_best = [
        Limits(facts, ForwardTimer(pair, facts.source, each.seconds), batch_size, each.timings) for each in rounds
    ]
    first = rounds[0].timings
    names = [name for name in KNOWN if name in first]
    texts = {name: [pair.decode(tokens) for tokens in first[name].outputs] for name in names}
    quality, reference = judged(texts, REFERENCE, judge), fastest_teacher(rounds)
    figures = [
        replace(
            _figures(KNOWN[name], facts, batch_size, rounds, at_best, reference),
            equal=same_texts(texts[name], texts[REFERENCE]),
            quality=quality[name],
        )
        for name in names
    ]
    shown = zip(*(best.shown for best in at_best), strict=True)
    forwards = [_forward(shapes, rounds, [best.timer for best in at_best]) for shapes in shown]
    return BatchFigures(batch_size, reference, figures, forwards, list(rounds))


def fastest_teacher(rounds: Sequence[Round]) -> str:
    """Return the system, of those in which the teacher writes alone, that wrote most tokens a second in the median."""
    alone = [name for name in rounds[0].timings if is_alone(name, "teacher")]
    return max(alone, key=lambda name: statistics.median(each.timings[name].rate for each in rounds))


def _forward(shapes: Sequence[Shape], rounds: Sequence[Round], timers: Sequence[ForwardTimer]) -> Forward:
    """Hold one forward pass, of which each round has its shape, against the bound of the machine."""
    seconds, overheads = [], []
    for shape, each, timed in zip(shapes, rounds, timers, strict=True):
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
    system: System,
    facts: WorkloadFacts,
    batch_size: int,
    rounds: Sequence[Round],
    at_best: Sequence[Limits],
    reference: str,
) -> Figures:
    """Return the figures of one system, without those of its texts."""
    name = system.name
    timings = [each.timings[name] for each in rounds]
    speedups = [own.rate / each.timings[reference].rate for own, each in zip(timings, rounds, strict=True)]
    bound = [best.of(system, each) for best, each in zip(at_best, timings, strict=True)]
    forwards = [forward_seconds(each, best.timer) for best, each in zip(at_best, timings, strict=True)]
    distances = [each.seconds / best for each, best in zip(timings, bound, strict=True) if best is not None]
    best_rates = [each.tokens / best for each, best in zip(timings, bound, strict=True) if best is not None]
    loops = [each.seconds / each.forward_seconds for each in timings if each.forward_seconds]
    same_as = must_repeat(system, facts.rounded)
    different = _different(system, same_as, rounds)
    ran = [each.seconds / least for each, least in zip(timings, forwards, strict=True) if least]
    first = timings[0]
    waste = statistics.median(map(_waste, timings))
    budget = f"{facts.budget:g}" if system.formula == "deferral" else "-"
    return Figures(
        name=name,
        label=system.label(batch_size),
        seconds=[each.seconds for each in timings],
        tokens=first.tokens,
        tokens_per_second=Spread.of([each.rate for each in timings]),
        speedup=Spread.of(speedups),
        equal=None,
        quality=None,
        passes_per_token={model: _median_per_token(timings, model, False) for model in MODELS},
        positions_per_token={model: _median_per_token(timings, model, True) for model in MODELS},
        use=None if first.teacher_tokens is None else first.teacher_tokens / first.tokens,
        acceptance=first.accepted / first.checked if first.checked else None,
        waste_per_pass=waste if first.drafted else None,
        scheduler_overhead=Spread.of(ran) if ran else None,
        loop_overhead=Spread.of(loops) if loops else None,
        limit_tokens_per_second=statistics.median(best_rates) if best_rates else None,
        distance=Spread.of(distances) if distances else None,
        same_as=same_as,
        differing=None if different is None else len(different),
        different=(different or [])[:SHOWN],
        signature=f"{facts.place}|{name}|{budget}|0|batch:{batch_size}|wheels:{__version__}",
    )


def must_repeat(system: System, rounded: Sequence[str]) -> str | None:
    """Return whose outputs a system must repeat: of a model with rounded weights this engine's, not transformers'."""
    other = system.same_as
    if other is None or is_library(system.name) or (model := other.removeprefix("hf-")) not in rounded:
        return other
    return None if system.name == model else model


def _different(system: System, same_as: str | None, rounds: Sequence[Round]) -> list[int] | None:
    """Return the rows that are not those that they must repeat, in the worst round; None: it may write another text."""
    held = [each.timings for each in rounds if same_as in each.timings]
    found = [each[system.name].differing(each[same_as or ""]) for each in held]
    return max(found, key=len) if found else None


def forward_seconds(timing: Timing, timer: ForwardTimer) -> float:
    """Compute the sum of the bare forward passes that were really run."""
    return math.fsum(count * timer.seconds(shape) for shape, count in timing.shapes.items())


def _median_per_token(timings: Sequence[Timing], model: str, positions: bool) -> float | None:
    """Return the median of `_per_token`; None where no pass was told."""
    told = [_per_token(each, model, positions) for each in timings if each.passes]
    return statistics.median(told) if told else None


def _per_token(timing: Timing, model: str, positions: bool) -> float:
    """Compute a model's row-passes, or the positions that these read, over the tokens written."""
    shapes = [(shape, count) for shape, count in timing.shapes.items() if shape.model == model and not shape.encodes]
    return sum(count * shape.rows * (shape.width if positions else 1) for shape, count in shapes) / timing.tokens


def _waste(timing: Timing) -> float:
    """Compute the draft tokens in vain over the teacher's row-passes."""
    passes = _per_token(timing, "teacher", False) * timing.tokens
    return (timing.drafted - timing.accepted) / passes if passes else 0.0
