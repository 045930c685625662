"""A comparison of speed as plain text for a terminal, and as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.speed.break_even import in_words
from wheels.benchmarks.speed.config import REFERENCE, is_rival
from wheels.benchmarks.speed.summary import MODELS, BatchFigures, Figures, Forward, Speed
from wheels.output.tables import Column, Table, columns, digits, estimate

Show = Callable[[Any], str]
SPREADS = ("seconds", "tokens_per_second", "speedup", "scheduler_overhead", "loop_overhead", "distance")
ENDS = ("median", "low", "high")
QUALITY = ("value", "difference", "low", "high")


def whole(value: float | None) -> str:
    """Return a speed for print: three digits at least."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def middle(show: Show) -> Show:
    """Return the format of a spread's median; a dash where there is none."""
    return lambda spread: "-" if spread is None else show(spread.median)


def ends(show: Show) -> Show:
    """Return the format of a spread's ends."""
    return lambda spread: f"({show(spread.low)}-{show(spread.high)})"


def least(spread: Spread | None) -> str:
    """Return the least of a spread; nothing where there is none."""
    return "" if spread is None else f"({two(spread.low)})"


def differing(figures: Figures) -> str:
    """Return how many outputs differ; a dash where they could not be compared, nothing where they may differ."""
    return "" if figures.same_as is None else "-" if figures.differing is None else str(figures.differing)


def verdict(metric: str, teacher: str) -> list[Column]:
    """Return the columns of a metric: its value, and its difference to the teacher's with the interval."""

    def of(figures: Figures) -> dict[str, float]:
        return (figures.quality or {}).get(metric, {})

    def difference(figures: Figures) -> str:
        found = of(figures)
        return estimate(found["difference"], found, 1, "+") if found and figures.name != teacher else ""

    return [Column(metric, lambda figures: of(figures).get("value"), digits(1)), Column("minus teacher", difference)]


two = digits(2)
SPEED = (
    Column("system", "label"),
    Column("seconds", lambda figures: Spread.of(figures.seconds), middle(digits(3))),
    Column("tokens/s", "tokens_per_second", middle(whole)),
    Column("(min-max)", "tokens_per_second", ends(whole)),
    Column("x teacher", "speedup", middle(two)),
    Column("(min-max)", "speedup", ends(two)),
    Column("use", "use", two),
    Column("equal", "equal", two),
)
PASSES = (
    Column("system", "label"),
    Column("accepted", "acceptance", two),
    Column("wasted", "waste_per_pass", two),
    Column("passes q", "passes_per_token.student", two),
    Column("p", "passes_per_token.teacher", two),
    Column("positions q", "positions_per_token.student", two),
    Column("p", "positions_per_token.teacher", two),
    Column("overhead", "scheduler_overhead", middle(two)),
    Column("(least)", "scheduler_overhead", least),
    Column("loop", "loop_overhead", middle(two)),
    Column("limit", "limit_tokens_per_second", whole),
    Column("distance", "distance", middle(two)),
    Column("(least)", "distance", least),
    Column("differ", differing),
)
LEGEND = f"""\
x teacher: tokens a second over those of the fastest teacher alone, which each title names, in the same round. use:
share of the tokens that the teacher wrote. equal: share of the texts that are those of {REFERENCE}. minus teacher: the
metric minus that of {REFERENCE}, with the 95% interval of a paired bootstrap over the texts.
accepted: share of the judged draft tokens. wasted: draft tokens in vain, a teacher pass. passes, positions: of student
q and teacher p, a token, padding included. overhead: seconds over the bare forward passes that were run, the library's,
or the engine's fast path where there is one. loop: seconds over those within the forward passes of the same run, on
the CPU. limit, distance: tokens/s by the formula of the best case with the same passes, and seconds over its own.
differ: outputs that are not what they must be. CTranslate2 and llama.cpp do not tell their passes."""


def as_text(speed: Speed) -> str:
    """Return the tables: one for each batch size, with what they were measured on above and what it means below."""
    about = speed.about
    load = " ".join(f"{each:.1f}" for each in about["load_average"])
    lines = [
        f"{about['task']}: {about['rows']} rows; student {about['student']}, teacher {about['teacher']}; "
        f"{about['dtype']} on {about['processor']}, {counted(about['threads'], 'thread')}, load {load}"
    ]
    lines += [f"note: {note}" for note in speed.notes]
    parts = ["\n".join(lines), in_words(speed.batches), *(_batch(batch) for batch in speed.batches), LEGEND]
    parts = [part for part in parts if part]
    return "\n\n".join([*parts, *_differences(speed)]) + "\n"


def counted(count: int, word: str) -> str:
    """Return a number with its word, in the plural where it needs it."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _batch(batch: BatchFigures) -> str:
    """Return one batch size: speed and quality of the systems, where their time went, the bare forward passes."""
    title = (
        f"batch size {batch.batch_size}, medians of {counted(len(batch.rounds), 'round')}; "
        f"the fastest teacher alone: {batch.reference}"
    )
    first = [column for metric in metrics_of(batch)[:1] for column in verdict(metric, REFERENCE)]
    passes = Table.of(PASSES, [each for each in batch.figures if not is_rival(each.name)]).text()
    forwards = "; ".join(map(_forward, batch.forwards))
    bare = f"bare forward passes (rows x tokens; the machine's bound): {forwards}"
    return "\n".join([Table.of([*SPEED, *first], batch.figures).text(title), passes, bare])


def metrics_of(batch: BatchFigures) -> list[str]:
    """Return the metrics that the texts were scored by."""
    return list(batch.figures[0].quality or {})


def _forward(forward: Forward) -> str:
    """Return one forward pass in words."""
    took = f"{1000 * forward.seconds.median:.2f} ms, {forward.overhead.median:.1f} x the bound"
    fast = ", fast path," if forward.kind == "lean" else ""
    return f"{forward.model}{fast} {forward.rows} x {forward.width}: {took}"


def _differences(speed: Speed) -> list[str]:
    """Return a warning for each system whose outputs are not what they must be."""
    return [
        f"WARNING: batch size {batch.batch_size}: {each.differing} outputs of {each.name} are not those of "
        f"{each.same_as}, such as that of row {each.different[0] + 1}"
        for batch in speed.batches
        for each in batch.figures
        if each.differing
    ]


def as_csv(speed: Speed) -> str:
    """Return a row for each system and batch size; a number that does not exist is an empty cell."""
    shown = [Column("batch_size", "batch.batch_size"), Column("contestant", "figures.name"), Column("rounds")]
    shown += [Column(f"{name}_{end}", f"{name}.{end}") for name in SPREADS for end in ENDS]
    shown += [Column("reference", "batch.reference")]
    shown += columns("tokens", "use", "equal", "acceptance", "waste_per_pass", under="figures")
    for name in ("passes_per_token", "positions_per_token"):
        shown += [Column(f"{model}_{name}", f"figures.{name}.{model}") for model in MODELS]
    shown += columns("limit_tokens_per_second", "same_as", "differing", "signature", under="figures")
    for metric in metrics_of(speed.batches[0]):
        shown += [Column(f"{metric}_{part}", f"figures.quality.{metric}.{part}") for part in QUALITY]
    return Table.of(shown, [_flat(batch, figures) for batch in speed.batches for figures in batch.figures]).csv()


def _flat(batch: BatchFigures, figures: Figures) -> dict[str, Any]:
    """Return the figures of one system with its spreads by name; those that do not exist are empty."""
    spreads = {name: getattr(figures, name) or dict.fromkeys(ENDS) for name in SPREADS}
    row = {"batch": batch, "figures": figures, "rounds": len(batch.rounds)}
    return row | spreads | {"seconds": Spread.of(figures.seconds)}
