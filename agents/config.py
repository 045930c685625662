"""The configuration of `wheels train`. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import REQUIRED, check_fields, machine_option, option, option_group, threads_option
from wheels.config.paths import PLACE, RUN
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.decoding.methods.choices import DTYPES
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES
from wheels.errors import WheelsError
from wheels.reports import report_option

AGENTS = ("lagrangian", "pcl")
"""`lagrangian` learns a price for each budget; `pcl` holds the one price that it is given."""
PARTS = ("head", "student")
"""What is trained: the deferral head on a frozen student, or both, the full policy over tokens and the call."""

data_option = option_group("data")
warm_option = option_group("warm start (regression of the regret)")
agent_option = option_group("agent (rounds of rollout and update)")
student_option = option_group("full policy (--train student)")
logging_option = option_group("logging and checkpoints")
calibration_option = option_group("calibration")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run of `wheels train`.

    Raises:
        WheelsError: for a value that is not allowed.
    """

    student: str = option(REQUIRED, "folder or hub id of the student", metavar="DIR", reads=PLACE)
    teacher: str = option(REQUIRED, "folder or hub id of the teacher", metavar="DIR", reads=PLACE)
    data: str = option(REQUIRED, "task, folder or hub:owner/name: train and validation", reads=PLACE)
    output: str = option(REQUIRED, "folder of the trained model; a rerun continues there", metavar="DIR", writes=RUN)
    source: str = data_option("source", "column of the source; dots reach nested ones")
    target: str = data_option("target", "column of the reference")
    prompt: str | None = data_option(None, "template of a causal model's prompt, with {source} in it")
    limit: int | None = option(None, "use only the first rows of the training split", minimum=1)
    train: str = option("head", "what is trained", choices=PARTS)
    seeds: int = option(1, "heads to train, from --seed on", minimum=1)
    seed: int = option(0, "first seed of all that is random", minimum=0)
    budgets: tuple[float, ...] = option((0.05, 0.1, 0.2, 0.3, 0.5), "grid of budgets that get a price", share=True)
    width: int = warm_option(256, "units of the head's hidden layers", minimum=1)
    regret_clip: float = warm_option(6.0, "a regret counts for at most this, in nats", minimum=0.1)
    states: int = warm_option(400_000, "states that the warm start reads at most", minimum=1)
    warm_epochs: int = warm_option(6, "passes over these states", minimum=1)
    warm_learning_rate: float = warm_option(1e-3, "learning rate of the warm start", minimum=0.0)
    router_rows: int = warm_option(3000, "rows that the router (of whole texts) learns from; 0: no router", minimum=0)
    pairs: int = warm_option(
        24_000, "states continued with and without a call, to credit it in the metric; 0: regret alone", minimum=0
    )
    agent: str = agent_option(
        "lagrangian", "lagrangian learns a price for each budget; pcl holds --price", choices=AGENTS
    )
    price: float = agent_option(2.0, "nats per teacher token, with --agent pcl", minimum=0.0)
    iterations: int = agent_option(20, "rounds of rollout and update of the agent; 0 leaves the warm start", minimum=0)
    prompts: int = agent_option(256, "sources decoded in a round", minimum=1)
    updates: int = agent_option(20, "gradient steps in a round", minimum=1)
    batch_size: int = agent_option(64, "episodes in a gradient step, and sources decoded at once", minimum=1)
    learning_rate: float = agent_option(1e-4, "learning rate of the agent", minimum=0.0)
    student_learning_rate: float = student_option(1e-5, "learning rate of the student", minimum=0.0)
    anchor: float = student_option(0.01, "weight of the student's divergence from the one that decoded", minimum=0.0)
    gamma: float = agent_option(0.0, "discount in [0, 1]; at 0 the regression's fixed point", minimum=0.0, maximum=1.0)
    alpha: float = agent_option(0.5, "weight of the gate's entropy, in nats", minimum=1e-3)
    suffix_weight: float = agent_option(0.2, "weight of whole-suffix residuals, in [0, 1]", minimum=0.0, maximum=1.0)
    path: float = agent_option(
        0.1, "how much of the path's gradient reaches the gate, in [0, 1]", minimum=0.0, maximum=1.0
    )
    trust: float = agent_option(1.0, "weight of the gate's divergence from its warm start", minimum=0.0)
    target_rate: float = agent_option(0.02, "Polyak step of the target network", minimum=0.0, maximum=1.0)
    metric: str | None = warm_option(None, "sentence metric of that credit (default: the task's first)")
    terminal: float = agent_option(0.0, "reward for 1 point of the task's sentence metric, in nats", minimum=0.0)
    on_policy: float = agent_option(0.5, "share of the policy's own episodes in a batch", minimum=0.0, maximum=1.0)
    replay: int = agent_option(100_000, "states that the replay holds", minimum=1)
    max_new_tokens: int = data_option(128, "longest output, in tokens", minimum=1)
    calibrate: bool = calibration_option(True, "find thresholds on the validation split after training")
    calibration_limit: int | None = calibration_option(None, "rows to calibrate on (default: all)", minimum=1)
    calibration_rules: tuple[str, ...] | None = calibration_option(
        None, "rules to calibrate (default: all)" + OWN_RULE, **RULE_CHOICES
    )
    calibration_budgets: tuple[float, ...] = calibration_option(
        CalibrateConfig.budgets, "teacher budgets to find thresholds for", share=True
    )
    checkpoint_every: int = logging_option(10, "rounds between checkpoints", minimum=1)
    report_to: tuple[str, ...] = report_option(logging_option)
    device: str = machine_option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = machine_option("float32", "number format of both models", choices=DTYPES)
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        """Check every value; the budgets are put in order."""
        check_fields(self)
        inner = tuple(sorted({budget for budget in self.budgets if 0 < budget < 1}))
        if not inner:
            raise WheelsError(f"budgets must hold at least one value above 0 and below 1, got {list(self.budgets)}")
        object.__setattr__(self, "budgets", inner)
        if self.train == "student" and (self.seeds > 1 or self.agent != "lagrangian"):
            raise WheelsError(
                f"train 'student' gives one student, with --agent lagrangian and --seeds 1; got {self.agent} and "
                f"{self.seeds} seeds: run it once for each seed, with --seed and an --output of its own"
            )
