"""What `wheels pretrain` is told. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.data.tasks import check_prompt
from wheels.errors import WheelsError
from wheels.fields import MOST_THREADS, REQUIRED, check_fields, option
from wheels.paths import PLACE, RUN, SETTINGS

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
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class PretrainConfig:
    """A run of static distillation, or of plain training on references (`objective` ce)."""

    output: str = option(REQUIRED, "folder to write the trained student to", metavar="DIR", writes=RUN)
    data: str = option(
        "embedded-translation",
        "embedded corpus, folder or file of rows, or hub:owner/name",
        metavar="DATA",
        reads=PLACE,
    )
    source: str = option("source", "column of the sources; dots reach nested ones", metavar="NAME")
    target: str = option("target", "column of the targets", metavar="NAME")
    prompt: str | None = option(None, "text the model reads, with {source} in it")
    limit: int | None = option(None, "read only so many rows of each split", minimum=1)

    student: str | None = option(
        None, "model to start from; without it one is built as below", metavar="DIR", reads=PLACE
    )
    family: str = option("t5", "family of a built student", choices=FAMILIES)
    width: int = option(48, "width of a built student", minimum=1, maximum=16384)
    layers: int = option(1, "layers of a built student", minimum=1, maximum=256)
    decoder_layers: int | None = option(None, "layers of its decoder, if other than --layers", minimum=1, maximum=256)
    heads: int = option(2, "attention heads of a built student", minimum=1, maximum=256)
    ff: int = option(96, "feed-forward width of a built student", minimum=1, maximum=65536)
    dropout: float = option(0.0, "dropout of a built student", minimum=0.0, maximum=0.9)
    vocab_size: int = option(4000, "pieces of a built tokenizer", minimum=259, maximum=1000000)
    tokenizer: str | None = option(
        None,
        "take the tokenizer of this model for a built student (without it: the teacher's)",
        metavar="DIR",
        reads=PLACE,
    )
    teacher: str | None = option(None, "model to learn from; ce needs none", metavar="DIR", reads=PLACE)

    objective: str = option("ce", "what to minimise", choices=OBJECTIVES)
    temperature: float = option(1.0, "T of both models in kl, rkl and jsd", minimum=0.01)
    w: float = option(1.0, "weight of the divergence (or pcl); the rest is cross-entropy on the references", share=True)
    beta: float = option(0.5, "of jsd: 0 is kl, 1 is rkl", minimum=0.0, maximum=1.0)
    lmbda: float = option(0.0, "share of batches whose targets the student samples itself", share=True)
    cached_logits: int = option(
        0,
        "score with the teacher once and keep its K likeliest tokens and their rest on disk; 0: a live teacher",
        minimum=0,
        metavar="K",
    )
    cache: str | None = option(
        None, "folder for such caches, which runs may share (without it: within --output)", metavar="DIR", writes=RUN
    )
    cache_temperatures: tuple[float, ...] = option(
        (1.0, 2.0, 5.0, 10.0), "temperatures that a cache is made for", minimum=0.01
    )
    paths: str = option("references", "of pcl: off-policy rows, which a teacher's outputs may be too", choices=PATHS)
    path_warm_up: float = option(0.1, "of pcl: share of the steps (or number) before the first samples", minimum=0.0)
    path_clip: float | None = option(10.0, "of pcl: a residual pulls with at most this, in nats", minimum=0.01)
    path_by_length: bool = option(False, "of pcl: divide the residual of a suffix by its length")
    path_distribution: str = option(
        "written",
        "of pcl: what a step is judged by: the token written, or all by the distribution of ...",
        choices=PATH_DISTRIBUTIONS,
    )
    path_gamma: float = option(1.0, "of pcl: discount of what follows a step; 0: each state for itself", share=True)
    value_rate: float = option(0.1, "of pcl: learning rate of the value over the student's; 0: V = 0", minimum=0.0)
    value_tau: float = option(
        0.05, "of pcl: rate of the next value's Polyak average; 1: none", minimum=1e-4, maximum=1.0
    )

    rationale: str | None = option(None, "column of rationales, which are learnt as a second task", metavar="NAME")
    rationale_weight: float = option(0.5, "of the rationales' loss; the targets' has the rest", share=True)
    label_prefix: str = option("predict: ", "with --rationale: begins the prompt for the target")
    rationale_prefix: str = option("explain: ", "with --rationale: begins the prompt for the rationale")

    epochs: float = option(3.0, "passes over the training rows", minimum=0.0)
    max_steps: int | None = option(None, "optimizer steps, instead of epochs", minimum=1)
    batch_size: int = option(32, "rows per forward pass", minimum=1)
    gradient_accumulation: int = option(1, "forward passes per optimizer step", minimum=1)
    learning_rate: float = option(1e-3, "highest learning rate of AdamW", minimum=0.0)
    warmup: float = option(0.05, "share of the steps (or number, from 1 on) in which it rises", minimum=0.0)
    schedule: str = option("cosine", "how it falls afterwards", choices=SCHEDULES)
    max_source_length: int = option(256, "leave out rows whose source has more tokens", minimum=1)
    max_target_length: int = option(256, "leave out rows whose target has more; longest output", minimum=2)
    options: str | None = option(
        None,
        "YAML of further options of transformers' TrainingArguments (--trainer trl: GKDConfig)",
        metavar="FILE",
        reads=SETTINGS,
    )

    metric: str | None = option(None, "picks the best checkpoint; without it the task's first")
    eval_every: int = option(0, "steps between evaluations and checkpoints; 0: once per epoch", minimum=0)
    eval_limit: int = option(200, "rows of the validation split that are scored; 0: none", minimum=0)
    log_every: int = option(20, "steps between lines of metrics.jsonl", minimum=1)
    seed: int = option(0, "of weights, order of rows, dropout and samples", minimum=0)
    resume: str = option("auto", "auto: continue a run that was cut short; never: start anew", choices=RESUMES)
    trainer: str = option("wheels", "trl: TRL's GKDTrainer, for causal pairs", choices=TRAINERS)
    device: str = option("cpu", "cpu or cuda")
    dtype: str = option("float32", "precision of the teacher; bfloat16, float16: mixed for the student", choices=DTYPES)
    threads: int = option(0, "CPU threads; 0: torch's choice", minimum=0, maximum=MOST_THREADS)

    def __post_init__(self) -> None:
        """Check what the fields alone can tell.

        Raises:
            WheelsError: for a value that is not allowed, or fields that contradict each other.
        """
        check_fields(self)
        if self.objective != "ce" and self.teacher is None:
            raise WheelsError(f"objective {self.objective!r} needs a teacher: give --teacher DIR, or use ce")
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
        if self.prompt is not None:
            check_prompt(self.prompt)
        if self.max_steps is None and self.epochs == 0.0:
            raise WheelsError("epochs must be above 0, or give max_steps")
        if not self.output:
            raise WheelsError("output must be a folder, got ''")

    def _check_cache(self) -> None:
        """Refuse what a cache of probabilities on the training rows cannot serve."""
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
