"""The configuration of `wheels pretrain`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import (
    DTYPES,
    MOST_THREADS,
    REQUIRED,
    attention_option,
    check_fields,
    machine_option,
    option,
    option_group,
    quantization_option,
    teacher_device_option,
    trust_option,
)
from wheels.config.paths import PLACE, RUN, SETTINGS
from wheels.data.options import OWN_METRIC, bad_rows_option
from wheels.data.prompts import prompt_options
from wheels.endpoints.address import is_address
from wheels.endpoints.options import ELSEWHERE, TEACHER, check_teacher, teacher_options
from wheels.errors import WheelsError
from wheels.reports import report_option

OBJECTIVES = ("ce", "kl", "rkl", "jsd", "seqkd", "pcl")
# Those that read the teacher's probabilities.
JUDGED = ("kl", "rkl", "jsd", "pcl")
# Those that a cache of the teacher's probabilities serves.
CACHED = ("kl", "rkl", "jsd")
PATH_DISTRIBUTIONS = ("written", "student", "both")
PATHS = ("references", "teacher", "both")
TRAINERS = ("wheels", "trl")
SCHEDULES = ("cosine", "linear", "constant_with_warmup")
RESUMES = ("auto", "never")
FAMILIES = ("t5", "llama")

data_option = option_group("data")
built_option = option_group("the student's size (without --student it is built from scratch)")
objective_option = option_group("objective")
prompt_option = option_group("prompt")
OF_TEACHER = teacher_options(option_group(ELSEWHERE))
OF_PROMPT = prompt_options(prompt_option, "{source}; with a mark at its end for a llama built here")
cache_option = option_group("cache of the teacher's probabilities")
pcl_option = option_group("path consistency (--objective pcl)")
rationale_option = option_group("rationales as a second task")
optimizer_option = option_group("optimization")
logging_option = option_group("evaluation, logging and checkpoints")


@dataclass(frozen=True)
class PretrainConfig:
    """The settings of static distillation, or of plain training on references (`objective` ce)."""

    output: str = option(REQUIRED, "folder of the trained student; a rerun continues there", metavar="DIR", writes=RUN)
    data: str = option(
        "embedded-translation",
        "embedded corpus, folder, file or hub:owner/name",
        metavar="DATA",
        reads=PLACE,
    )
    source: str = data_option("source", "column of the sources; dots reach nested ones", metavar="NAME")
    target: str = data_option("target", "column of the targets", metavar="NAME")
    bad_rows: str = bad_rows_option(data_option)
    limit: int | None = option(None, "read only so many rows of each split", minimum=1)

    student: str | None = option(
        None, "model to start from (default: one is built, see below)", metavar="DIR", reads=PLACE
    )
    keep_layers: int | None = built_option(
        None,
        "of --student's layers (its decoder's) keep N: the first, the last, and spread ones",
        minimum=1,
        metavar="N",
    )
    family: str = built_option("t5", "model family", choices=FAMILIES)
    width: int = built_option(48, "hidden size", minimum=1, maximum=16384)
    layers: int = built_option(1, "layers (of the encoder)", minimum=1, maximum=256)
    decoder_layers: int | None = built_option(None, "decoder layers (default: --layers)", minimum=1, maximum=256)
    heads: int = built_option(2, "attention heads", minimum=1, maximum=256)
    ff: int = built_option(96, "feed-forward size", minimum=1, maximum=65536)
    dropout: float = built_option(0.0, "dropout", minimum=0.0, maximum=0.9)
    vocab_size: int = built_option(4000, "pieces of a tokenizer built with it", minimum=259, maximum=1000000)
    tokenizer: str | None = built_option(
        None,
        "model whose tokenizer it takes (default: the teacher's)",
        metavar="DIR",
        reads=PLACE,
    )
    teacher: str | None = option(None, TEACHER + "; ce needs none", metavar="DIR", reads=PLACE)
    teacher_model: str | None = OF_TEACHER[0]
    teacher_key: str = OF_TEACHER[1]

    prompt: str | None = OF_PROMPT[0]
    chat_template: str = OF_PROMPT[1]
    system_prompt: str | None = OF_PROMPT[2]
    template_args: tuple[str, ...] = OF_PROMPT[3]

    objective: str = option("ce", "what to minimise", choices=OBJECTIVES)
    temperature: float = objective_option(1.0, "temperature of both models in kl, rkl and jsd", minimum=0.01)
    w: float = objective_option(1.0, "weight of the divergence or pcl; references have the rest", share=True)
    beta: float = objective_option(0.5, "jsd between kl (0) and rkl (1)", minimum=0.0, maximum=1.0)
    lmbda: float = objective_option(0.0, "share of batches whose targets the student samples", share=True)
    cached_logits: int = cache_option(
        0,
        "keep the teacher's K most probable tokens on disk; 0: it runs",
        minimum=0,
        metavar="K",
    )
    cache: str | None = cache_option(
        None, "folder of caches that runs share (default: within --output)", metavar="DIR", writes=RUN
    )
    cache_temperatures: tuple[float, ...] = cache_option(
        (1.0, 2.0, 5.0, 10.0), "temperatures the cache serves", minimum=0.01
    )
    paths: str = pcl_option("references", "off-policy texts", choices=PATHS)
    path_warm_up: float = pcl_option(0.1, "steps before the first samples: share, or number", minimum=0.0)
    path_clip: float | None = pcl_option(10.0, "clip of a residual, in nats", minimum=0.01)
    path_by_length: bool = pcl_option(False, "divide the residual of a suffix by its length")
    path_distribution: str = pcl_option(
        "written", "a step's residual: of the token, or expected under the student or both", choices=PATH_DISTRIBUTIONS
    )
    path_gamma: float = pcl_option(1.0, "discount of later steps; 0: each step by itself", share=True)
    value_rate: float = pcl_option(0.1, "value's learning rate over the student's; 0: no value", minimum=0.0)
    value_tau: float = pcl_option(0.05, "Polyak rate of the target value; 1: no average", minimum=1e-4, maximum=1.0)

    rationale: str | None = rationale_option(None, "column of the rationales", metavar="NAME")
    rationale_weight: float = rationale_option(0.5, "weight of the rationales' loss; targets have the rest", share=True)
    label_prefix: str = rationale_option("predict: ", "prefix of the prompt for the target")
    rationale_prefix: str = rationale_option("explain: ", "prefix of the prompt for the rationale")

    epochs: float = option(3.0, "passes over the training rows", minimum=0.0)
    max_steps: int | None = optimizer_option(None, "optimizer steps, instead of epochs", minimum=1)
    batch_size: int = option(32, "rows per forward pass", minimum=1)
    group_by_length: bool = optimizer_option(False, "rows of about one length in a batch: less padding")
    gradient_accumulation: int = optimizer_option(1, "forward passes per optimizer step", minimum=1)
    learning_rate: float = option(1e-3, "peak learning rate of AdamW", minimum=0.0)
    warmup: float = optimizer_option(0.05, "steps in which it rises: share, or number from 1 on", minimum=0.0)
    schedule: str = optimizer_option("cosine", "how the learning rate falls", choices=SCHEDULES)
    lora_rank: int | None = optimizer_option(
        None, "train adapters of rank R on --student, which is else frozen; merged at the end", minimum=1, metavar="R"
    )
    max_source_length: int = data_option(256, "leave out rows whose source has more tokens", minimum=1)
    max_target_length: int = data_option(256, "leave out rows whose target has more; longest output", minimum=2)
    options: str | None = optimizer_option(
        None,
        "YAML of further TrainingArguments (trl: GKDConfig)",
        metavar="FILE",
        reads=SETTINGS,
    )

    metric: str | None = logging_option(None, "picks the best checkpoint (default: the task's first)" + OWN_METRIC)
    eval_every: int = logging_option(0, "steps between evaluations and checkpoints; 0: once per epoch", minimum=0)
    eval_limit: int = logging_option(200, "validation rows that are scored; 0: none", minimum=0)
    log_every: int = logging_option(20, "steps between lines of metrics.jsonl", minimum=1)
    report_to: tuple[str, ...] = report_option(logging_option)
    seed: int = option(0, "seed of weights, order of rows, dropout and samples", minimum=0)
    resume: str = logging_option("auto", "auto continues a run that was cut short; never starts anew", choices=RESUMES)
    trainer: str = objective_option("wheels", "ours, or TRL's GKDTrainer (causal pairs)", choices=TRAINERS)
    device: str = machine_option("cpu", "cpu or cuda")
    teacher_device: str | None = teacher_device_option()
    teacher_quantization: str | None = quantization_option()
    dtype: str = machine_option("float32", "of the teacher; the student trains in float32 or mixed", choices=DTYPES)
    attn_implementation: str | None = attention_option()
    trust_remote_code: bool = trust_option()
    threads: int = machine_option(0, "CPU threads; 0: torch's choice", minimum=0, maximum=MOST_THREADS)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            WheelsError: for a value that is not allowed, or fields that contradict each other.
        """
        check_fields(self)
        if self.keep_layers is not None and self.student is None:
            raise WheelsError(f"keep_layers {self.keep_layers} is of a --student that there is; or use --layers")
        if self.lora_rank is not None and (self.student is None or self.trainer == "trl"):
            raise WheelsError(
                f"lora_rank {self.lora_rank} is for a --student that there is, and --trainer wheels; leave it out"
            )
        if self.objective != "ce" and self.teacher is None:
            raise WheelsError(f"objective {self.objective!r} needs a teacher: give --teacher DIR, or use ce")
        check_teacher(self)
        if is_address(self.teacher):
            self._check_remote()
        if self.lmbda > 0.0 and self.objective not in JUDGED:
            raise WheelsError(
                f"lmbda {self.lmbda:g} needs an objective of {', '.join(JUDGED)} (the teacher judges what the "
                f"student samples), got {self.objective!r}"
            )
        if self.objective == "pcl" and self.temperature != 1.0:
            raise WheelsError(f"objective 'pcl' is the one of temperature 1, got {self.temperature:g}; leave it out")
        if self.cached_logits:
            self._check_cache()
        elif self.cache is not None:
            raise WheelsError(f"cache {self.cache!r} needs --cached-logits K, such as 64; or leave it out")
        if self.rationale is not None:
            self._check_rationale()
        if self.max_steps is None and self.epochs == 0.0:
            raise WheelsError("epochs must be above 0, or give max_steps")
        if not self.output:
            raise WheelsError("output must be a folder, got ''")

    def _check_cache(self) -> None:
        """Refuse settings that a cache of probabilities on the training rows cannot serve."""
        ask = f"cached_logits {self.cached_logits}"
        if self.objective not in CACHED:
            raise WheelsError(f"{ask} needs an objective of {', '.join(CACHED)}, got {self.objective!r}; leave it out")
        if self.lmbda > 0.0:
            raise WheelsError(f"{ask} needs lmbda 0, got {self.lmbda:g}: what a student samples is in no cache")
        if self.trainer == "trl":
            raise WheelsError(f"{ask} needs --trainer wheels: TRL's reads a live teacher")
        if self.temperature not in self.cache_temperatures:
            known = ", ".join(f"{one:g}" for one in self.cache_temperatures) or "none"
            raise WheelsError(
                f"the cache is to be made for the temperatures {known}, got {self.temperature:g}; add it to "
                "--cache-temperatures"
            )

    def _check_remote(self) -> None:
        """Refuse what a teacher at an address does not tell."""
        told = f"teacher {self.teacher} is at an address, and"
        if not self.cached_logits:
            raise WheelsError(
                f"{told} tells its likeliest tokens alone, once: give --cached-logits K, such as 20, and an objective "
                f"of {', '.join(CACHED)}"
            )
        if self.temperature != 1.0 or self.cache_temperatures not in (PretrainConfig.cache_temperatures, (1.0,)):
            raise WheelsError(f"{told} tells probabilities of temperature 1; leave out other temperatures")
        if self.student is None and self.tokenizer is None:
            raise WheelsError(f"{told} has no tokenizer to take: give --student or --tokenizer")

    def _check_rationale(self) -> None:
        """Check what a second task needs."""
        if self.objective != "ce" or self.trainer != "wheels":
            raise WheelsError(
                "rationales are learnt by cross-entropy: objective must be ce and trainer wheels, got "
                f"{self.objective!r} and {self.trainer!r}"
            )
        if self.label_prefix == self.rationale_prefix:
            raise WheelsError(f"label_prefix and rationale_prefix must differ, got {self.label_prefix!r} twice")
        if not self.rationale:
            raise WheelsError("rationale must name a column, got ''")
