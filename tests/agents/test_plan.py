"""What a run is going to do is said before it begins; a calibration that cannot be is refused then."""

from dataclasses import replace

import pytest

from wheels.agents.config import TrainConfig
from wheels.agents.plan import calibration_of, sentence_metric, trained_rules, workload
from wheels.data.tasks import Task
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.errors import WheelsError

CONFIG = TrainConfig(student="s", teacher="t", data="d", output="o", baselines=("paired", "gate", "router"))


def test_the_work_of_a_run_with_every_rule() -> None:
    training, calibration = workload(CONFIG, 1000, 200)
    assert training == (
        "training on 1000 rows: up to 400000 states, heads 1 x learned, regret, paired, gate, router; then 3 rounds of "
        "12000 texts and their forks for each seed"
    )
    # Of the twelve rules that there are heads for random and every-k need no threshold.
    assert calibration == (
        "then calibration: 90 thresholds (10 x 9 budgets): 100 to 550 decodes of 200 rows; "
        "--calibration-rules, -budgets and -limit choose less"
    )


def test_the_student_that_learns_is_part_of_the_work() -> None:
    lines = workload(replace(CONFIG, train="student", turns=3, student_texts=70), 1000, 200)
    assert lines[0] == "first the student learns, in 3 turns of 70 texts; then"
    assert lines[1:] == workload(CONFIG, 1000, 200)


@pytest.mark.parametrize(
    ("changes", "thresholds"),
    [
        ({"seeds": 3}, "180 thresholds (20 x 9 budgets)"),
        ({"seeds": 3, "baselines": ()}, "99 thresholds (11 x 9 budgets)"),
        ({"baselines": ("paired", "gate")}, "81 thresholds (9 x 9 budgets)"),
        ({"baselines": ()}, "63 thresholds (7 x 9 budgets)"),
        ({"calibration_rules": ("learned", "random")}, "9 thresholds (1 x 9 budgets)"),
        ({"calibration_rules": ("learned",), "calibration_budgets": (0.0, 0.2, 0.5, 1.0)}, "2 thresholds (1 x 2 bud"),
    ],
)
def test_calibration_can_be_chosen(changes, thresholds) -> None:
    config = replace(CONFIG, **changes)
    assert workload(config, 10, 5)[1].startswith(f"then calibration: {thresholds}")
    made = calibration_of(config)
    assert (made.rules, made.budgets) == (config.calibration_rules, config.calibration_budgets)


@pytest.mark.parametrize(
    ("metrics", "asked", "expected"),
    [
        (("bleu", "rougeL"), None, "chrf"),
        (("rougeL", "bleu"), None, "rougeL"),
        (("rougeL",), "bleu", "chrf"),
        (("bleu",), "exact", "exact"),
    ],
)
def test_the_reward_is_the_tasks_first_metric_of_single_texts(
    metrics: tuple[str, ...], asked: str | None, expected: str
) -> None:
    task = Task(name="t", splits={}, metrics=metrics)
    assert sentence_metric(replace(CONFIG, metric=asked), task) == expected


def test_without_calibration_the_command_that_does_it_is_named() -> None:
    assert workload(replace(CONFIG, calibrate=False), 10, 0)[1].startswith("no calibration: `wheels calibrate`")


def test_the_budgets_are_those_of_calibrate() -> None:
    assert CONFIG.calibration_budgets == CalibrateConfig.budgets


def test_a_rule_without_a_head_is_refused_before_training() -> None:
    config = replace(CONFIG, calibration_rules=("learned", "router"), baselines=())
    assert "router" not in trained_rules(config)
    with pytest.raises(WheelsError, match=r"has 'router', but .* trains learned, regret only; .*--baselines router"):
        calibration_of(config)


def test_no_budget_at_all_is_refused() -> None:
    with pytest.raises(WheelsError, match="budgets must hold at least one value"):
        calibration_of(replace(CONFIG, calibration_budgets=()))
