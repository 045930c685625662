"""How long a run of `wheels train` takes: foretold from a few texts that are written, and forked, before it begins."""

from __future__ import annotations

import time
from collections.abc import Sequence

from wheels.agents.config import TrainConfig
from wheels.agents.plan import thresholds_of
from wheels.agents.regression.paired import A_ROW
from wheels.agents.rl.paths import at_random, play
from wheels.agents.seed_run import environment_of
from wheels.agents.trainer import SETTLE_TRIES, SPAN_STATES, TURN_STATES, settling
from wheels.data.tasks import Row
from wheels.decoding.commands.calibrate import decodes
from wheels.decoding.remote.pair import RemotePair
from wheels.envs.settings import Start
from wheels.models.pair import Pair
from wheels.output.notices import WORTH_SAYING, in_words

FORKED = 8
"""Texts of the trial that are forked, at most: with their forks they fill a batch."""


def foretold(config: TrainConfig, pair: Pair, rows: Sequence[Row], metric: str, validation: int) -> str | None:
    """Return about how long the run takes; None: under a minute, or a teacher elsewhere would have to be paid for it.

    Args:
        config: of the run.
        pair: of both models.
        rows: of the training split.
        metric: of the reward.
        validation: rows to calibrate on.
    """
    if isinstance(pair, RemotePair):
        return None
    plain, length = _trial(config, pair, rows[: config.batch_size], metric, 0)
    forked = _trial(config, pair, rows[:FORKED], metric, config.forks)[0] if config.rounds else 0.0
    rounds = config.seeds * config.rounds * config.count_of("texts", len(rows)) * forked
    few, many = (rounds + count * plain for count in texts_of(config, len(rows), validation, length))
    if many < WORTH_SAYING:
        return None
    return f"about {in_words(few)} to {in_words(many)} at the pace of a first batch"


def texts_of(config: TrainConfig, rows: int, validation: int, length: float) -> tuple[float, float]:
    """Return the fewest and the most texts that are written, but for those of the rounds.

    Args:
        config: of the run.
        rows: of the training split.
        validation: rows to calibrate on.
        length: tokens of a text, on average.
    """
    settled = settling(config, rows) if config.agent == "lagrangian" else 0
    each = min(rows, config.states / length)
    if config.train == "student":
        states = min(config.states, TURN_STATES)
        each += config.turns * (min(rows, states / length) + config.count_of("student_texts", rows))
    if config.spans:
        each += config.count_of("texts", rows) * (1 + SPAN_STATES * (1 + len(config.spans)) / 2)
    baselines = {
        "paired": min(config.pairs, A_ROW * rows),
        "router": 2 * min(config.router_rows, rows),
        "reinforce": config.count_of("reinforce_texts", rows),
    }
    each += sum(baselines.get(rule, 0) for rule in config.baselines)
    calibrated = [count * validation for count in decodes(*thresholds_of(config))] if config.calibrate else [0, 0]
    few, many = (
        config.pseudo_references * rows + config.seeds * (each + tries * settled) + found
        for tries, found in zip((1, SETTLE_TRIES), calibrated, strict=True)
    )
    return few, many


def _trial(config: TrainConfig, pair: Pair, rows: Sequence[Row], metric: str, states: int) -> tuple[float, float]:
    """Write all rows with calls at random, and fork so many states of each; return seconds and tokens of a text."""
    use = sum(config.budgets) / len(config.budgets)
    chosen = [Start(place, place, use, 0.0) for place in range(len(rows))]
    env, begin = environment_of(config, pair, rows, metric), time.perf_counter()
    stems, _ = play(env, chosen, at_random(use), states=states)
    tokens = sum(stem.tokens for stem in stems)
    return (time.perf_counter() - begin) / len(stems), max(1.0, tokens / len(stems))
