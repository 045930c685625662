"""The configuration of `wheels train`. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import (
    DTYPES,
    REQUIRED,
    attention_option,
    check_fields,
    machine_option,
    option,
    option_group,
    quantization_option,
    teacher_device_option,
    threads_option,
    tokens_option,
    trust_option,
)
from wheels.config.paths import PLACE, RUN
from wheels.data.options import OWN_METRIC, bad_rows_option, references_option
from wheels.data.prompts import prompt_options
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES
from wheels.decoding.remote.span import span_option
from wheels.endpoints.address import is_address
from wheels.endpoints.options import ELSEWHERE, TEACHER, check_teacher, teacher_options
from wheels.errors import WheelsError
from wheels.reports import report_option

AGENTS = ("lagrangian", "pcl")
"""`lagrangian` learns a price for each budget; `pcl` holds the one price that it is given."""
TRAINED_PARTS = ("head", "student")
"""`head` learns when to call; `student` lets the student learn too, in turns with it (`wheels.agents.rl.student`)."""
STUDENT_OBJECTIVES = ("kl", "rkl", "jsd")
"""Those of `wheels pretrain` that need no references."""
BASELINES = ("paired", "gate", "router", "reinforce")
"""Rules that the agent is compared with, each with a head of its own; `regret`, its warm start, is always there."""

BY_ROWS = {"texts": (12_000, 20), "student_texts": (12_000, 20), "reinforce_texts": (51_200, 256)}
"""How many texts are written where nobody says it, and how many of one row at most: few rows take little time."""

data_option = option_group("data")
OF_PROMPT = prompt_options(option_group("prompt"), "the one that the student was trained with")
OF_TEACHER = teacher_options(option_group(ELSEWHERE))
warm_option = option_group("warm start (regression of the regret)")
student_option = option_group("the student (--train student)")
agent_option = option_group("agent (path consistency on forked texts)")
baseline_option = option_group("baselines")
calibration_option = option_group("calibration")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run of `wheels train`.

    Raises:
        WheelsError: for a value that is not allowed.
    """

    student: str = option(REQUIRED, "folder or hub id of the student", metavar="DIR", reads=PLACE)
    teacher: str = option(REQUIRED, TEACHER, metavar="DIR", reads=PLACE)
    data: str = option(REQUIRED, "task, folder or hub:owner/name: train and validation", reads=PLACE)
    output: str = option(REQUIRED, "folder of the trained model; a rerun continues there", metavar="DIR", writes=RUN)
    source: str = data_option("source", "column of the source; dots reach nested ones")
    target: str = data_option("target", "column of the reference")
    references: str | None = references_option(data_option)
    bad_rows: str = bad_rows_option(data_option)
    teacher_model: str | None = OF_TEACHER[0]
    teacher_key: str = OF_TEACHER[1]
    prompt: str | None = OF_PROMPT[0]
    chat_template: str = OF_PROMPT[1]
    system_prompt: str | None = OF_PROMPT[2]
    template_args: tuple[str, ...] = OF_PROMPT[3]
    limit: int | None = option(None, "use only the first rows of the training split", minimum=1)
    seeds: int = option(1, "heads to train, from --seed on", minimum=1)
    seed: int = option(0, "first seed of all that is random", minimum=0)
    budgets: tuple[float, ...] = option((0.05, 0.1, 0.2, 0.3, 0.5), "grid of budgets that get a price", share=True)
    train: str = option("head", "head alone, or the student in turns with it", choices=TRAINED_PARTS)
    turns: int = student_option(2, "times that it is taught, before the head's own training", minimum=1)
    student_texts: int | None = student_option(
        None, "texts that are written in a turn (default: 12000, 20 of a row at most)", minimum=1
    )
    student_objective: str = student_option("kl", "divergence from the teacher", choices=STUDENT_OBJECTIVES)
    student_epochs: int = student_option(2, "passes over the texts of a turn", minimum=1)
    student_learning_rate: float = student_option(5e-4, "highest learning rate of the student", minimum=0.0)
    cached_logits: int = student_option(32, "the teacher's likeliest tokens that are kept of each state", minimum=1)
    width: int = warm_option(256, "units of the head's hidden layers", minimum=1)
    regret_clip: float = warm_option(6.0, "a regret counts for at most this, in nats", minimum=0.1)
    states: int = warm_option(400_000, "states that the warm start reads at most", minimum=1)
    warm_epochs: int = warm_option(6, "passes over these states", minimum=1)
    warm_learning_rate: float = warm_option(1e-3, "learning rate of the warm start", minimum=0.0)
    agent: str = agent_option(
        "lagrangian", "lagrangian learns a price for each budget; pcl holds --price", choices=AGENTS
    )
    price: float = agent_option(2.0, "nats per teacher token, with --agent pcl", minimum=0.0)
    rounds: int = agent_option(3, "rounds of rollout, forks and fit; 0 leaves the warm start", minimum=0)
    texts: int | None = agent_option(
        None, "texts that are written, and forked, in a round (default: 12000, 20 of a row at most)", minimum=1
    )
    forks: int = agent_option(16, "states of a text in which both actions are taken, at most", minimum=1)
    pseudo_references: int = agent_option(
        4, "texts sampled from the teacher that a text is scored against, beside its reference", minimum=0
    )
    metric: str | None = agent_option(None, "sentence metric of the reward (default: the task's first)" + OWN_METRIC)
    spans: tuple[int, ...] = agent_option(
        (),
        "tokens that a call may buy beside one, such as 2,4,8: their gain is learned, for --span auto",
        minimum=2,
    )
    span: str = span_option(agent_option)
    alpha: float = agent_option(0.25, "weight of the gate's entropy, in nats", minimum=1e-3)
    epochs: int = agent_option(4, "passes over the forks, each round", minimum=1)
    learning_rate: float = agent_option(1e-3, "learning rate of the agent", minimum=0.0)
    weight_decay: float = agent_option(5.0, "weight decay of the agent", minimum=0.0)
    batch_size: int = agent_option(64, "texts decoded at once", minimum=1)
    baselines: tuple[str, ...] = baseline_option(
        (), "rules to train beside it: " + ", ".join(BASELINES) + " (regret always is)", choices=BASELINES
    )
    router_rows: int = baseline_option(3000, "rows that the router (of whole texts) learns from", minimum=1)
    reinforce_texts: int | None = baseline_option(
        None, "texts that reinforce writes, four of each prompt (default: 51200, 256 of a row at most)", minimum=256
    )
    pairs: int = baseline_option(24_000, "states continued with and without a call, for paired", minimum=1)
    max_new_tokens: int = data_option(128, "longest output, in tokens", minimum=1)
    calibrate: bool = calibration_option(True, "find thresholds on the validation split after training")
    calibration_limit: int | None = calibration_option(None, "rows to calibrate on (default: all)", minimum=1)
    calibration_rules: tuple[str, ...] | None = calibration_option(
        None, "rules to calibrate (default: all)" + OWN_RULE, **RULE_CHOICES
    )
    calibration_budgets: tuple[float, ...] = calibration_option(
        CalibrateConfig.budgets, "teacher budgets to find thresholds for", share=True
    )
    report_to: tuple[str, ...] = report_option(option)
    max_tokens_in_flight: int | None = tokens_option()
    device: str = machine_option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = machine_option("float32", "number format of both models", choices=DTYPES)
    teacher_device: str | None = teacher_device_option()
    teacher_quantization: str | None = quantization_option()
    attn_implementation: str | None = attention_option()
    trust_remote_code: bool = trust_option()
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        """Check every value; the budgets are put in order."""
        check_fields(self)
        check_teacher(self)
        inner = tuple(sorted({budget for budget in self.budgets if 0 < budget < 1}))
        if not inner:
            raise WheelsError(f"budgets must hold at least one value above 0 and below 1, got {list(self.budgets)}")
        object.__setattr__(self, "budgets", inner)
        object.__setattr__(self, "spans", tuple(sorted(set(self.spans))))
        if is_address(self.teacher) and self.span != TrainConfig.span:
            raise WheelsError(
                f"span {self.span!r} is for a teacher in a folder with a tokenizer of its own: one at an address is "
                "trained with by calls of one token, and --spans says what longer ones gain"
            )
        if self.train == "student":
            self._check_student()

    def count_of(self, name: str, rows: int) -> int:
        """Return a number of texts of `BY_ROWS`: the one given, else what the rows bear."""
        most, a_row = BY_ROWS[name]
        given: int | None = getattr(self, name)
        return min(most, a_row * rows) if given is None else given

    def _check_student(self) -> None:
        """Refuse settings that a student cannot be trained with."""
        if self.seeds > 1:
            raise WheelsError(
                f"train 'student' gives one student, got seeds {self.seeds}; run it once for each seed, with --seed 0, "
                "1, ... and an --output each"
            )
        if self.dtype != "float32":
            raise WheelsError(f"train 'student' needs dtype float32, in which the student learns, got {self.dtype!r}")
