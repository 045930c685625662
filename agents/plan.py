"""What a run of `wheels train` is going to do: said before it begins, and its calibration checked then."""

from __future__ import annotations

from wheels.agents.config import TrainConfig
from wheels.config.fields import loading_of
from wheels.data.tasks import Task
from wheels.decoding.commands.calibrate import effort
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.methods.rules import KNOWN_RATE, RULE_NAMES, TRAINED
from wheels.decoding.remote.pair import RemotePair
from wheels.errors import WheelsError
from wheels.metrics import find_metric
from wheels.models.pair import Pair
from wheels.models.student_pair import StudentPair


def trained_rules(config: TrainConfig) -> list[str]:
    """Return the rules that the run trains heads for."""
    return ["learned", "regret", *config.baselines]


def calibration_of(config: TrainConfig) -> CalibrateConfig:
    """Return how the thresholds of the run are found.

    Raises:
        WheelsError: for a rule that the run trains no head for, and for no rule or no budget at all.
    """
    for rule in config.calibration_rules or ():
        if rule in TRAINED and rule not in trained_rules(config):
            raise WheelsError(
                f"calibration_rules has {rule!r}, but this run trains {', '.join(trained_rules(config))} only; leave "
                f"it out, or train it too (--baselines {rule})"
            )
    return CalibrateConfig(
        model=config.output,
        data=config.data,
        teacher=config.teacher,
        teacher_model=config.teacher_model,
        teacher_key=config.teacher_key,
        source=config.source,
        target=config.target,
        bad_rows=config.bad_rows,
        limit=config.calibration_limit,
        budgets=config.calibration_budgets,
        rules=config.calibration_rules,
        seeds=config.seeds,
        span=config.span,
        max_new_tokens=config.max_new_tokens,
        max_tokens_in_flight=config.max_tokens_in_flight,
        **loading_of(config),
        batch_size=config.batch_size,
    )


def check_by_text(config: TrainConfig, pair: Pair) -> None:
    """Refuse what needs a teacher of the student's tokenizer, where it reads and writes text.

    Raises:
        WheelsError: naming the setting, and what works.
    """
    if not pair.by_text:
        return
    assert isinstance(pair, StudentPair)
    told, other = pair.teacher_told, pair.other_teacher
    if isinstance(pair, RemotePair):
        raise WheelsError(f"train asks how likely each token of a text is to the teacher, and {told}; give {other}")
    if config.train == "student":
        raise WheelsError(
            f"train 'student' compares both models' next tokens, and {told}; train the head, or give {other}"
        )
    if config.spans:
        raise WheelsError(f"spans are counted in the student's tokens, and {told}; give --span, or {other}")
    if others := [name for name in config.baselines if name != "gate"]:
        raise WheelsError(
            f"baseline {others[0]!r} counts on calls of one token, and {told}; leave it out, or give {other}"
        )


def sentence_metric(config: TrainConfig, task: Task) -> str:
    """Return the metric of single texts: the task's first, but chrF for BLEU, which is a corpus metric.

    Raises:
        WheelsError: for an unknown metric.
    """
    metric = find_metric(config.metric or task.metrics[0])
    return metric if metric != "bleu" else "chrf"


def thresholds_of(config: TrainConfig) -> tuple[int, int]:
    """Return how many rules and seeds need thresholds, and for how many budgets."""
    trained = trained_rules(config)
    names = config.calibration_rules or [rule for rule in RULE_NAMES if rule not in TRAINED or rule in trained]
    scored = sum(config.seeds if rule in TRAINED else 1 for rule in names if rule not in KNOWN_RATE)
    return scored, sum(0 < budget < 1 for budget in set(config.calibration_budgets))


def workload(config: TrainConfig, rows: int, validation: int) -> list[str]:
    """Return what the run is going to do, a line for each stage.

    Args:
        config: of the run.
        rows: of the training split.
        validation: rows to calibrate on.
    """
    rounds = f"{config.rounds} rounds of {config.count_of('texts', rows)} texts and their forks"
    trained = trained_rules(config)
    heads = f"{config.seeds} x {', '.join(trained)}"
    lines = [f"training on {rows} rows: up to {config.states} states, heads {heads}; then {rounds} for each seed"]
    if config.train == "student":
        texts = config.count_of("student_texts", rows)
        lines = [f"first the student learns, in {config.turns} turns of {texts} texts; then", *lines]
    if not config.calibrate:
        return [*lines, "no calibration: `wheels calibrate` finds thresholds later"]
    what = effort(*thresholds_of(config), validation)
    return [*lines, f"then calibration: {what}; --calibration-rules, -budgets and -limit choose less"]
