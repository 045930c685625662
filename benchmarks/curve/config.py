"""What `wheels bench curve` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.benchmarks.core.config import PairConfig, data_option, statistics_option
from wheels.config.fields import backend_option, check_fields, option, option_group, tokens_option, weights_option
from wheels.config.paths import PLACE, RUN
from wheels.data.options import OWN_METRIC
from wheels.data.prompts import check_given
from wheels.decoding.methods.choices import MODE_HELP, MODES
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES
from wheels.decoding.remote.prices import Prices, prices_option
from wheels.decoding.remote.span import span_option
from wheels.endpoints.options import ELSEWHERE, TEACHER, check_teacher, teacher_options, teacher_prompt_option
from wheels.errors import WheelsError

model_option = option_group("models")
OF_TEACHER = teacher_options(option_group(ELSEWHERE))
AXES = ("use", "dollars")
"""What quality is drawn against: the share of the tokens that the teacher wrote, or what its calls cost."""


@dataclass(frozen=True)
class CurveConfig(PairConfig):
    """Settings of one quality-vs-teacher-use curve."""

    model: str | None = option(
        None,
        "folder of a trained model, or of any student, with --teacher (default: the embedded pair)",
        metavar="DIR",
        reads=PLACE,
    )
    teacher: str | None = model_option(None, TEACHER + " (default: the model's own)", reads=PLACE)
    teacher_model: str | None = OF_TEACHER[0]
    teacher_key: str = OF_TEACHER[1]
    teacher_prompt: str | None = teacher_prompt_option(option_group(ELSEWHERE))
    span: str = span_option(model_option)
    also: tuple[str, ...] = model_option(
        (),
        "more trained models of the same pair, each trained and calibrated on its own: their seeds are further ones",
        reads=PLACE,
    )
    prompt: str | None = data_option(
        None, "text that the models read, with {source} in it, or chat (default: the model's own)", check=check_given
    )
    metrics: tuple[str, ...] = option(
        (), "metrics; the first is the quality of the curve (default: the task's own)" + OWN_METRIC
    )
    budgets: tuple[float, ...] = option(
        (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0),
        "teacher budgets to decode; between points more than 0.1 apart in measured use no figure is given",
        share=True,
        rising=True,
    )
    rules: tuple[str, ...] | None = option(
        None,
        "rules to compare (default: all that the model has heads and thresholds for)" + OWN_RULE,
        once=True,
        **RULE_CHOICES,
    )
    seeds: int = statistics_option(3, "trained heads of a rule, and draws of random and every-k", minimum=1)
    mode: str = option("average", MODE_HELP, choices=MODES)
    calibration_data: str | None = data_option(
        None, "data to calibrate on first; never the data that is scored", reads=PLACE
    )
    calibration_limit: int | None = data_option(None, "rows to calibrate on (default: all)", minimum=1)
    x: str = option("use", "what quality is drawn against: teacher use, or dollars by --prices", choices=AXES)
    prices: tuple[str, ...] = prices_option(option)
    max_tokens_in_flight: int | None = tokens_option()
    output: str = option("curve", "folder for the results; a rerun into it continues", metavar="DIR", writes=RUN)
    student_weights: str = weights_option("student")
    teacher_weights: str = weights_option("teacher")
    backend: str = backend_option()

    def __post_init__(self) -> None:
        """Check every value; budgets are put in order, and each rule and budget stands once."""
        check_fields(self)
        check_teacher(self)
        if (self.x == "dollars") != bool(self.prices):
            raise WheelsError(f"x dollars and prices go together, got x {self.x} and prices {','.join(self.prices)!r}")
        if self.prices:
            Prices.of(self.prices)
            if self.span != "tokens:1":
                raise WheelsError(f"x dollars counts calls of one token, got span {self.span}; leave it out")
        if self.calibration_limit is not None and self.calibration_data is None:
            raise WheelsError(f"calibration_limit needs calibration_data, got {self.calibration_limit} without")

    @property
    def interior_budgets(self) -> tuple[float, ...]:
        """The budgets at which both models write."""
        return tuple(budget for budget in self.budgets if 0.0 < budget < 1.0)
