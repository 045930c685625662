"""A comparison of speed as plain text for a terminal, and as CSV."""

from __future__ import annotations

import math

from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.speed.config import REFERENCE
from wheels.benchmarks.speed.summary import MODELS, BatchFigures, Figures, Forward, Speed
from wheels.tables import Table, number

HEAD = (
    "system", "seconds", "tokens/s", "(min-max)", f"x {REFERENCE}", "(min-max)", "use", "accepted", "wasted",
    "passes q", "p", "positions q", "p", "overhead", "(least)", "loop", "limit", "distance", "(least)", "differ",
)  # fmt: skip
LEGEND = f"""\
x {REFERENCE}: tokens a second over those of {REFERENCE} in the same round. use: share of the tokens that the teacher
wrote. accepted: share of the judged draft tokens. wasted: draft tokens in vain, a teacher pass. passes, positions: of
student q and teacher p, a token, padding included. overhead: seconds over the bare forward passes that were run, the
library's, or the engine's fast path where there is one. limit, distance: tokens/s by the formula of the best case with
the same passes, and seconds over its own. differ: outputs that are not what they must be.
loop: seconds over those within the forward passes of the same run, on the CPU."""


def as_text(speed: Speed) -> str:
    """Return the tables: one for each batch size, with what they were measured on above and what it means below."""
    about = speed.about
    load = " ".join(f"{each:.1f}" for each in about["load_average"])
    lines = [
        f"{about['task']}: {about['rows']} rows; student {about['student']}, teacher {about['teacher']}; "
        f"{about['dtype']} on {about['processor']}, {counted(about['threads'], 'thread')}, load {load}"
    ]
    lines += [f"note: {note}" for note in speed.notes]
    parts = ["\n".join(lines), *(_batch(batch) for batch in speed.batches), LEGEND]
    return "\n\n".join([*parts, *_differences(speed)]) + "\n"


def counted(count: int, word: str) -> str:
    """Return a number with its word, in the plural where it needs it."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _batch(batch: BatchFigures) -> str:
    """Return one batch size: the systems, then the bare forward passes."""
    title = f"batch size {batch.batch_size}, medians of {counted(len(batch.rounds), 'round')}"
    table = Table(HEAD, [_row(figures) for figures in batch.figures]).text(title)
    forwards = "; ".join(map(_forward, batch.forwards))
    return f"{table}\nbare forward passes (rows x tokens; the machine's bound): {forwards}"


def _forward(forward: Forward) -> str:
    """Return one forward pass in words."""
    took = f"{1000 * forward.seconds.median:.2f} ms, {forward.overhead.median:.1f} x the bound"
    fast = ", fast path," if forward.kind == "lean" else ""
    return f"{forward.model}{fast} {forward.rows} x {forward.width}: {took}"


def _row(figures: Figures) -> tuple[str, ...]:
    """Return the cells of one system."""
    passes, positions = figures.passes_per_token, figures.positions_per_token
    return (
        figures.label,
        f"{Spread.of(figures.seconds).median:.3f}",
        _whole(figures.tokens_per_second.median),
        f"({_whole(figures.tokens_per_second.low)}-{_whole(figures.tokens_per_second.high)})",
        f"{figures.speedup.median:.2f}",
        f"({figures.speedup.low:.2f}-{figures.speedup.high:.2f})",
        _two(figures.use),
        _two(figures.acceptance),
        _two(figures.waste_per_pass),
        *(_two(passes[model]) for model in MODELS),
        *(_two(positions[model]) for model in MODELS),
        _two(figures.scheduler_overhead.median),
        f"({_two(figures.scheduler_overhead.low)})",
        _two(None if figures.loop_overhead is None else figures.loop_overhead.median),
        _whole(figures.limit_tokens_per_second),
        *(
            ("-", "")
            if figures.distance is None
            else (_two(figures.distance.median), f"({_two(figures.distance.low)})")
        ),
        "" if figures.same_as is None else "-" if figures.differing is None else str(figures.differing),
    )


def _differences(speed: Speed) -> list[str]:
    """Return a warning for each system whose outputs are not what they must be."""
    return [
        f"WARNING: batch size {batch.batch_size}: {each.differing} outputs of {each.name} are not those of "
        f"{each.same_as}, such as that of row {each.different[0] + 1}"
        for batch in speed.batches
        for each in batch.figures
        if each.differing
    ]


def _whole(value: float | None) -> str:
    """Return a speed for print: three digits at least."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _two(value: float | None) -> str:
    """Return a ratio for print."""
    return number(value, 2)


def as_csv(speed: Speed) -> str:
    """Return a line for each system and batch size; a number that does not exist is an empty cell."""
    lines = [_cells(batch, figures) for batch in speed.batches for figures in batch.figures]
    return Table(list(lines[0]), [list(line.values()) for line in lines]).csv()


def _cells(batch: BatchFigures, figures: Figures) -> dict[str, object]:
    """Return the cells of one system by their columns."""
    values: dict[str, object] = {
        "batch_size": batch.batch_size,
        "contestant": figures.name,
        "rounds": len(batch.rounds),
    }
    spreads = {"seconds": Spread.of(figures.seconds)}
    for name in ("tokens_per_second", "speedup", "scheduler_overhead", "loop_overhead", "distance"):
        spreads[name] = getattr(figures, name)
    for name, spread in spreads.items():
        for part in ("median", "low", "high"):
            values[f"{name}_{part}"] = None if spread is None else getattr(spread, part)
    values |= {name: getattr(figures, name) for name in ("tokens", "use", "acceptance", "waste_per_pass")}
    for name in ("passes_per_token", "positions_per_token"):
        values |= {f"{model}_{name}": getattr(figures, name)[model] for model in MODELS}
    for name in ("limit_tokens_per_second", "same_as", "differing", "signature"):
        values[name] = getattr(figures, name)
    return values
