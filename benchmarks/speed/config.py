"""What `wheels bench speed` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import (
    DTYPES,
    backend_option,
    check_fields,
    machine_option,
    option,
    option_group,
    quantization_option,
    teacher_device_option,
    threads_option,
    weights_option,
)
from wheels.config.paths import PLACE, RUN, SETTINGS
from wheels.errors import WheelsError

REFERENCE = "hf-teacher"
"""The teacher as transformers runs it: it always runs, and its texts are what all others are held against."""
CT2 = ("ct2-teacher", "ct2-teacher-int8", "ct2-student", "ct2-student-int8")
"""One model alone in CTranslate2: with the weights as they are, in float32, or with weights of int8."""
LLAMA = ("llama-teacher", "llama-teacher-int8", "llama-student", "llama-student-int8")
"""The same in llama.cpp."""
RIVALS = (*CT2, *LLAMA)
SYSTEMS = (
    REFERENCE,
    "hf-student",
    "hf-assisted",
    "hf-lookup",
    *RIVALS,
    "teacher",
    "student",
    "deferral",
    "deferral-lockstep",
    "speculative",
    "speculative-adaptive",
    "lookup",
    "bild",
    "cascade-opt",
    "verified",
)
"""Every way of decoding that is timed; `hf-` are transformers' own, `ct2-` CTranslate2's, `llama-` llama.cpp's."""
WITH_RANDOM_WEIGHTS = (REFERENCE, "hf-student", *RIVALS, "teacher", "student", "deferral", "deferral-lockstep")
"""Those whose speed does not depend on what the models say."""
EMBEDDED_DATA = "embedded-translation"
"""What the embedded pair is timed on: its own test rows."""


def is_library(name: str) -> bool:
    """Tell whether a system is transformers' own."""
    return name.startswith("hf-")


def is_rival(name: str) -> bool:
    """Tell whether a system is of another engine than transformers and ours."""
    return name in RIVALS


def is_alone(name: str, model: str) -> bool:
    """Tell whether in a system one model, `student` or `teacher`, writes alone, in any engine."""
    return (
        name.split("-", 1)[-1].removesuffix("-int8") == model if is_library(name) or is_rival(name) else name == model
    )


text_option = option_group("models and texts")


@dataclass(frozen=True)
class SpeedConfig:
    """Settings of one comparison of speed.

    Raises:
        WheelsError: for a value that is not allowed, or two that do not go together.
    """

    model: str | None = option(
        None, "folder of a trained model (default: the embedded pair)", metavar="DIR", reads=PLACE
    )
    teacher: str | None = text_option(None, "folder or hub id of the teacher (default: the model's own)", reads=PLACE)
    data: str | None = option(
        None, "task, folder, file or hub:owner/name (default: the embedded pair's own test rows)", reads=PLACE
    )
    split: str = text_option("test", "split of the data that is decoded")
    rows: int = option(64, "texts that each system decodes", minimum=1)
    batch_sizes: tuple[int, ...] = option((1, 8, 32), "rows of a forward pass", minimum=1)
    rounds: int = option(5, "times that each system runs, all of them in turn", minimum=1)
    teacher_budget: float = option(0.2, "share of the tokens that the teacher writes in deferral", share=True)
    draft_length: int = option(5, "K, tokens of a draft", minimum=1, maximum=1024)
    methods: tuple[str, ...] = option(
        (), f"systems, always with {REFERENCE} (default: all that are possible)", choices=SYSTEMS
    )
    max_new_tokens: int = text_option(
        64, "longest output, in tokens (with --random-weights: as its file says)", minimum=1
    )
    random_weights: str | None = text_option(
        None,
        "sizes of an untrained pair, in place of a model: YAML file or shipped recipe",
        metavar="FILE",
        reads=SETTINGS,
    )
    output: str = option("speed", "folder for the results; a rerun into it continues", metavar="DIR", writes=RUN)
    device: str = machine_option("cpu", "device of both models, such as cpu or cuda")
    dtype: str = machine_option("float32", "number format of both models", choices=DTYPES)
    teacher_device: str | None = teacher_device_option()
    teacher_quantization: str | None = quantization_option()
    student_weights: str = weights_option("student")
    teacher_weights: str = weights_option("teacher")
    threads: int | None = threads_option()
    backend: str = backend_option()

    def __post_init__(self) -> None:
        """Check every value; each batch size and each system stands once."""
        check_fields(self)
        if not self.batch_sizes:
            raise WheelsError("batch_sizes must hold at least one value, got none")
        if not 0.0 < self.teacher_budget < 1.0:
            raise WheelsError(
                f"teacher_budget must lie between 0 and 1, got {self.teacher_budget:g}: "
                "the ends are systems of their own, student and teacher"
            )
        if self.random_weights is not None:
            self._check_random()
        elif self.model is not None and self.data is None:
            raise WheelsError("--data TEXT is missing: the texts that the model of --model is to be timed on")
        object.__setattr__(self, "batch_sizes", tuple(sorted({int(size) for size in self.batch_sizes})))
        chosen = (REFERENCE, *self.methods) if self.methods else ()
        object.__setattr__(self, "methods", tuple(name for name in SYSTEMS if name in chosen))

    def _check_random(self) -> None:
        """Refuse what a pair with random weights cannot be asked for."""
        for name in ("model", "teacher", "data"):
            if getattr(self, name) is not None:
                raise WheelsError(f"--{name} and --random-weights do not go together; give one of them")
        for name in self.methods:
            if name not in WITH_RANDOM_WEIGHTS:
                raise WheelsError(
                    f"{name} cannot be timed on random weights, which repeat one token and flatter it; "
                    f"possible: {', '.join(WITH_RANDOM_WEIGHTS)}"
                )
