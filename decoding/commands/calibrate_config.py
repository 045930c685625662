"""What `wheels calibrate` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import (
    DTYPES,
    REQUIRED,
    attention_option,
    backend_option,
    check_fields,
    machine_option,
    option,
    option_group,
    quantization_option,
    teacher_device_option,
    threads_option,
    tokens_option,
    trust_option,
    weights_option,
)
from wheels.config.paths import PLACE
from wheels.data.options import bad_rows_option
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES
from wheels.decoding.remote.span import span_option
from wheels.endpoints.options import ELSEWHERE, TEACHER, check_teacher, teacher_options, teacher_prompt_option
from wheels.errors import WheelsError

data_option = option_group("data")
OF_TEACHER = teacher_options(option_group(ELSEWHERE))


@dataclass(frozen=True)
class CalibrateConfig:
    """Settings of one run of `wheels calibrate`, which writes `DIR/deferral/calibration.json`.

    Raises:
        WheelsError: for a value that is not allowed.
    """

    model: str = option(
        REQUIRED, "folder of a trained model; other thresholds there are kept", metavar="DIR", reads=PLACE
    )
    data: str = option(
        REQUIRED, "task, folder, file or hub:owner/name to calibrate on; never the data to be scored", reads=PLACE
    )
    teacher: str | None = option(None, TEACHER + " (default: the model's own)", reads=PLACE)
    teacher_model: str | None = OF_TEACHER[0]
    teacher_key: str = OF_TEACHER[1]
    teacher_prompt: str | None = teacher_prompt_option(option_group(ELSEWHERE))
    span: str = span_option(option)
    split: str = data_option("validation", "split of the data that is used")
    source: str = data_option("source", "column of the source; dots reach nested ones")
    target: str = data_option("target", "column of the reference")
    bad_rows: str = bad_rows_option(data_option)
    limit: int | None = data_option(None, "use only the first rows", minimum=1)
    budgets: tuple[float, ...] = option(
        (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7), "teacher budgets to find thresholds for", share=True
    )
    rules: tuple[str, ...] | None = option(
        None, "rules to calibrate (default: all that the model has heads for)" + OWN_RULE, **RULE_CHOICES
    )
    seeds: int = option(3, "how many trained heads, and draws of the random rule, are calibrated", minimum=1)
    max_new_tokens: int = option(128, "longest output, in tokens", minimum=1)
    batch_size: int = machine_option(64, "rows decoded at once", minimum=1)
    max_tokens_in_flight: int | None = tokens_option()
    device: str = machine_option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = machine_option("float32", "number format of both models", choices=DTYPES)
    teacher_device: str | None = teacher_device_option()
    teacher_quantization: str | None = quantization_option()
    attn_implementation: str | None = attention_option()
    trust_remote_code: bool = trust_option()
    student_weights: str = weights_option("student")
    teacher_weights: str = weights_option("teacher")
    threads: int | None = threads_option()
    backend: str = backend_option()

    def __post_init__(self) -> None:
        """Check every value; budgets are put in order, and each rule and budget stands once."""
        check_fields(self)
        check_teacher(self)
        for name in ("budgets", "rules"):
            if getattr(self, name) is not None and not getattr(self, name):
                raise WheelsError(f"{name} must hold at least one value, got none")
        object.__setattr__(self, "budgets", tuple(sorted(set(self.budgets))))
        if self.rules is not None:
            object.__setattr__(self, "rules", tuple(dict.fromkeys(self.rules)))
