"""What `wheels train` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.decoding.methods.choices import DTYPES
from wheels.errors import WheelsError
from wheels.fields import REQUIRED, check_fields, option, threads_option
from wheels.paths import PLACE, RUN

AGENTS = ("lagrangian", "pcl")
"""`lagrangian` learns a price for each budget; `pcl` holds the one price that it is given."""
PARTS = ("head", "student")
"""What is trained: the deferral head on a frozen student, or both, the full policy over tokens and the call."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run of `wheels train`.

    Raises:
        WheelsError: for a value that is not allowed.
    """

    student: str = option(REQUIRED, "folder or hub id of the student", metavar="DIR", reads=PLACE)
    teacher: str = option(REQUIRED, "folder or hub id of the teacher", metavar="DIR", reads=PLACE)
    data: str = option(REQUIRED, "task, folder or hub:owner/name with train and validation splits", reads=PLACE)
    output: str = option(
        REQUIRED, "folder for the trained model; an unfinished run there is continued", metavar="DIR", writes=RUN
    )
    source: str = option("source", "column of the source; dotted names reach nested columns")
    target: str = option("target", "column of the reference")
    prompt: str | None = option(None, "template of a causal model's prompt, with {source} in it")
    limit: int | None = option(None, "use only the first rows of the training split", minimum=1)
    train: str = option("head", "what is trained", choices=PARTS)
    agent: str = option("lagrangian", "how budgets are kept in training", choices=AGENTS)
    seeds: int = option(1, "heads to train, from --seed on", minimum=1)
    seed: int = option(0, "first seed of all that is random", minimum=0)
    budgets: tuple[float, ...] = option((0.05, 0.1, 0.2, 0.3, 0.5), "grid of budgets that get a price", share=True)
    price: float = option(2.0, "nats per teacher token, for --agent pcl", minimum=0.0)
    width: int = option(256, "units of the head's hidden layers", minimum=1)
    regret_clip: float = option(6.0, "a regret counts for at most this, in nats", minimum=0.1)
    states: int = option(400_000, "states that the warm start reads at most", minimum=1)
    warm_epochs: int = option(6, "passes over these states", minimum=1)
    warm_learning_rate: float = option(1e-3, "learning rate of the warm start", minimum=0.0)
    router_rows: int = option(3000, "rows that the router of whole texts learns from; 0: no router", minimum=0)
    pairs: int = option(
        24_000, "states that are continued both ways: a call's credit in the task's metric; 0: the regret's", minimum=0
    )
    iterations: int = option(20, "rounds of rollout and update of the agent; 0 leaves the warm start", minimum=0)
    prompts: int = option(256, "sources decoded in a round", minimum=1)
    updates: int = option(20, "gradient steps in a round", minimum=1)
    batch_size: int = option(64, "episodes in a gradient step, and sources decoded at once", minimum=1)
    learning_rate: float = option(1e-4, "learning rate of the agent", minimum=0.0)
    student_learning_rate: float = option(1e-5, "learning rate of the student, for --train student", minimum=0.0)
    anchor: float = option(0.01, "weight of the student's divergence from the one that decoded", minimum=0.0)
    gamma: float = option(0.0, "discount in [0, 1]; at 0 the regression's fixed point", minimum=0.0, maximum=1.0)
    alpha: float = option(0.5, "weight of the gate's entropy, in nats", minimum=1e-3)
    suffix_weight: float = option(0.2, "weight of whole-suffix residuals, in [0, 1]", minimum=0.0, maximum=1.0)
    path: float = option(0.1, "how much of the path's gradient reaches the gate, in [0, 1]", minimum=0.0, maximum=1.0)
    trust: float = option(1.0, "weight of the gate's divergence from its warm start", minimum=0.0)
    target_rate: float = option(0.02, "Polyak step of the target network", minimum=0.0, maximum=1.0)
    metric: str | None = option(None, "scores single texts, where these give the credit; without it the task's first")
    terminal: float = option(0.0, "reward for 1 point of the task's sentence metric, in nats", minimum=0.0)
    on_policy: float = option(0.5, "share of the policy's own episodes in a batch", minimum=0.0, maximum=1.0)
    replay: int = option(100_000, "states that the replay holds", minimum=1)
    max_new_tokens: int = option(128, "longest output, in tokens", minimum=1)
    calibrate: bool = option(True, "find the thresholds on the validation split when training is done")
    calibration_limit: int | None = option(None, "rows of the validation split to calibrate on", minimum=1)
    checkpoint_every: int = option(10, "rounds between checkpoints", minimum=1)
    device: str = option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = option("float32", "number format of both models", choices=DTYPES)
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
