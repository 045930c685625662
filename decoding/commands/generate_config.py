"""What `wheels generate` can be asked for. Imports nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.config.fields import (
    attention_option,
    backend_option,
    check_fields,
    dtype_option,
    fields_of,
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
from wheels.config.paths import FILE, PLACE, RUN
from wheels.data.prompts import prompt_options
from wheels.decoding.commands.shards import check_shard
from wheels.decoding.methods.choices import (
    BUDGETED,
    CASCADES,
    COLORS,
    ENGINES,
    FORMATS,
    INPUT_FORMATS,
    METHODS,
    MODE_HELP,
    MODES,
    ON_ERROR,
    ON_TEACHER_ERROR,
    PACED,
)
from wheels.decoding.methods.rules import OWN_RULE, RULE_CHOICES, RULES
from wheels.decoding.remote.prices import Prices, prices_option
from wheels.decoding.remote.span import FORMS, check_span
from wheels.endpoints.address import is_address
from wheels.endpoints.options import ELSEWHERE, TEACHER, check_teacher, teacher_options, teacher_prompt_option
from wheels.errors import WheelsError

input_option = option_group("input and output")
pair_option = option_group("another pair")
remote_option = option_group(ELSEWHERE)
OF_TEACHER = teacher_options(remote_option)
OF_PROMPT = prompt_options(option_group("prompt"), "the model's own")
draft_option = option_group("methods that verify drafts")
sampling_option = option_group("sampling")


IN_FILES = "give --input FILE and --output FILE, and no --format html"
LIMITS = {"dollars": "budget_dollars", "requests": "max_teacher_requests", "tokens": "max_teacher_tokens"}
"""What a teacher at an address may cost in all: the settings, by what a lease calls them."""


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of one run of `wheels generate`.

    Raises:
        WheelsError: for a value that is not allowed, or two that do not go together.
    """

    text: str | None = option(None, "the text to write from; without it, --input or standard input", positional=True)
    input: str | None = option(
        None,
        "a file with one text a line, or rows (.jsonl, .csv, .parquet ...); - for standard input",
        metavar="FILE",
        reads=PLACE,
    )
    input_format: str = input_option(
        "auto",
        "what the input is (json: rows one a line, or a list); auto: by its name and start",
        choices=INPUT_FORMATS,
    )
    shard: str | None = input_option(
        None,
        "the I-th of N parts of the rows, written beside the output; merge joins them (torchrun: its own rank)",
        metavar="I/N",
        check=check_shard,
    )
    source: str = input_option("source", "column of the text in rows; dots reach nested ones")
    model: str | None = option(
        None, "folder of a trained model (default: the embedded pair)", metavar="DIR", reads=PLACE
    )
    student: str | None = pair_option(
        None,
        "folder or hub id of a student, in place of --model",
        reads=PLACE,
    )
    teacher: str | None = pair_option(
        None,
        TEACHER + " (default: the model's own)",
        reads=PLACE,
    )
    teacher_model: str | None = OF_TEACHER[0]
    teacher_key: str = OF_TEACHER[1]
    teacher_prompt: str | None = teacher_prompt_option(remote_option)
    teacher_timeout: float = remote_option(30.0, "seconds for one request", minimum=0.01)
    teacher_attempts: int = remote_option(3, "requests for one call; what may pass is tried again", minimum=1)
    span: str = remote_option(
        "tokens:1",
        f"how much one call buys, of a teacher with a tokenizer of its own too: {FORMS}; auto: each call chooses",
        check=check_span,
    )
    write_on: bool = remote_option(True, "let the student write on while an answer is under way; texts stay the same")
    prices: tuple[str, ...] = prices_option(remote_option)
    budget_dollars: float | None = remote_option(
        None, "dollars that may be spent; without --teacher-budget they are spread over the texts", minimum=0.0
    )
    max_teacher_requests: int | None = remote_option(
        None, "requests that may be sent, the probe's and new attempts too", minimum=0
    )
    max_teacher_tokens: int | None = remote_option(None, "tokens that the teacher may write", minimum=0)
    ledger: str | None = remote_option(
        None, "file that keeps account of dollars, requests and tokens, for other runs too", metavar="FILE", writes=RUN
    )
    on_teacher_error: str = remote_option(
        "continue",
        "what a call does that gets no answer; continue: the student writes in its place",
        choices=ON_TEACHER_ERROR,
    )
    prompt: str | None = OF_PROMPT[0]
    chat_template: str = OF_PROMPT[1]
    system_prompt: str | None = OF_PROMPT[2]
    template_args: tuple[str, ...] = OF_PROMPT[3]
    method: str = option("deferral", "how the two models write together", choices=METHODS)
    teacher_budget: float | None = option(None, "share of tokens the teacher may write (default: 0.2)", share=True)
    budget_mode: str = option("average", MODE_HELP, choices=MODES)
    rule: str = option("learned", "what decides to call the teacher" + OWN_RULE, **RULE_CHOICES)
    draft_length: int | None = draft_option(
        None,
        "student tokens that the teacher verifies at once (default: 5; bild: 10; take-back: 16; verified, priced: no "
        "limit)",
        minimum=1,
        maximum=1024,
    )
    adaptive_draft: bool = draft_option(
        False, "let each text's acceptance choose its draft length (speculative, lookup)"
    )
    tolerance: float | None = draft_option(
        None,
        "how much worse than the teacher's a draft token may be: lenience in [0, 1) for speculative and lookup "
        "(default: 0, lossless), nats for bild (3), verified and take-back (2), nats for each nat of the price for "
        "priced (1), alpha for cascade (0.3)",
        minimum=0.0,
    )
    verify_end: bool = draft_option(False, "verify what was written after the last call too (verified, priced)")
    cascade: str = draft_option("opt", "the rule of a speculative cascade", choices=CASCADES)
    fallback: float = draft_option(
        0.6, "bild calls the teacher where the student's best probability is lower", share=True
    )
    format: str = option("text", "how the result is shown", choices=FORMATS)
    output: str | None = option(None, "file of the result (default: standard output)", metavar="FILE", writes=FILE)
    color: str = input_option("auto", "show the teacher's tokens in colour", choices=COLORS)
    max_new_tokens: int = option(128, "longest output, in tokens", minimum=1)
    batch_size: int = machine_option(64, "texts decoded at once", minimum=1)
    max_tokens_in_flight: int | None = tokens_option()
    temperature: float = sampling_option(0.0, "0: the most probable token; above: samples", minimum=0.0)
    top_k: int = sampling_option(0, "sample among this many tokens only; 0 for all", minimum=0)
    top_p: float = sampling_option(1.0, "sample among the fewest tokens of this probability", minimum=0.0, maximum=1.0)
    on_error: str = input_option("stop", "what happens at an input that cannot be read", choices=ON_ERROR)
    seed: int = sampling_option(0, "of sampling and the random rule; also which head decides", minimum=0)
    device: str = machine_option("cpu", "device of both models, such as cpu or cuda")
    teacher_device: str | None = teacher_device_option()
    dtype: str = dtype_option()
    student_dtype: str | None = dtype_option("student")
    teacher_dtype: str | None = dtype_option("teacher")
    attn_implementation: str | None = attention_option()
    trust_remote_code: bool = trust_option()
    student_weights: str = weights_option("student")
    teacher_weights: str = weights_option("teacher")
    teacher_quantization: str | None = quantization_option()
    threads: int | None = threads_option()
    backend: str = backend_option()
    engine: str = machine_option(
        "local",
        "where the rows of a file are written; ray: by actors of a cluster, or of this machine",
        choices=ENGINES,
    )
    actors: int | None = machine_option(
        None, "actors of --engine ray (default: as many as the cluster has GPUs, or times --threads CPUs)", minimum=1
    )

    def __post_init__(self) -> None:
        """Check every value, and those that do not go together."""
        check_fields(self)
        if self.text is not None and self.input is not None:
            raise WheelsError(f"give the text or --input, not both: got {self.text!r} and --input {self.input}")
        if self.top_p == 0.0:
            raise WheelsError(
                "top_p must be in (0, 1], got 0; for the most probable token alone leave temperature at 0"
            )
        if self.temperature == 0.0 and (self.top_k > 0 or self.top_p < 1.0):
            given = f"top_k {self.top_k}" if self.top_k > 0 else f"top_p {self.top_p:g}"
            raise WheelsError(f"{given} has no effect at temperature 0; set a temperature above 0 to sample")
        self._check_method()
        self._check_pair()
        self._check_remote()
        if self.shard is not None or self.format == "parquet":
            self._check_files()
        if self.engine == "ray":
            self._check_files()
            self.check_any_order()
        elif self.actors is not None:
            raise WheelsError(f"actors {self.actors} are those of --engine ray; give it too, or leave them out")
        if self.color == "always" and self.format != "text":
            raise WheelsError(f"color 'always' is for format 'text', got format {self.format!r}")

    @property
    def resume(self) -> str:
        """`auto` where the same command goes on with what was written, from a file into a file; else `never`."""
        return "auto" if self.output is not None and self.input not in (None, "-") else "never"

    @property
    def budget(self) -> float | None:
        """The teacher budget that is kept; None where every token is verified instead, or dollars are kept."""
        if self.method not in BUDGETED or self.mode == PACED:
            return None
        return 0.2 if self.teacher_budget is None else self.teacher_budget

    @property
    def mode(self) -> str:
        """How the budget is kept: as `budget_mode` says, or by the dollars that stand in place of a share."""
        paced = self.budget_dollars is not None and self.teacher_budget is None and self.method == "deferral"
        return PACED if paced else self.budget_mode

    def _check_files(self) -> None:
        """Refuse what is written from a file into a file without them."""
        given = f"shard {self.shard}" if self.shard is not None else f"format {self.format!r}"
        given = "engine 'ray'" if self.engine == "ray" else given
        if self.resume == "never" or self.format == "html":
            raise WheelsError(f"{given} is written from a file into a file; {IN_FILES}")
        if self.shard is not None and self.ledger is not None:
            raise WheelsError(f"{given} keeps a ledger of its own beside its output, got {self.ledger}; leave it out")

    def check_any_order(self) -> None:
        """Refuse what has no meaning where rows are written in any order, by actors of Ray."""
        if self.budget_mode == "online":
            raise WheelsError(
                "budget_mode 'online' decides by what earlier rows spent, and Ray gives batches to actors in any "
                "order; use average or strict"
            )
        if limits := [name for name in LIMITS.values() if getattr(self, name) is not None]:
            raise WheelsError(f"{limits[0]} would be spent by each actor anew; use `wheels generate --shard I/N`")

    def _check_method(self) -> None:
        """Refuse what has no meaning for the method."""
        if self.method not in BUDGETED and self.teacher_budget is not None:
            raise WheelsError(
                f"method {self.method!r} verifies every token and keeps no teacher budget, got "
                f"{self.teacher_budget:g}; leave it out, or use one of {', '.join(BUDGETED)}"
            )
        if self.method not in BUDGETED and self.budget_mode != "average":
            raise WheelsError(
                f"budget_mode {self.budget_mode!r} keeps a teacher budget, and method {self.method!r} has none; leave "
                f"it out, or use one of {', '.join(BUDGETED)}"
            )
        drafts, given = self.method != "deferral", self.draft_length is not None or self.tolerance is not None
        if not drafts and given:
            raise WheelsError("draft_length and tolerance are for methods that verify, got method 'deferral'")
        if self.verify_end and self.method not in ("verified", "priced"):
            raise WheelsError(f"verify_end is for methods verified and priced, got method {self.method!r}")
        if self.adaptive_draft and self.method not in ("speculative", "lookup"):
            raise WheelsError(f"adaptive_draft is for methods speculative and lookup, got method {self.method!r}")

    def _check_pair(self) -> None:
        """Refuse what a student without a trained model's folder does not know."""
        if self.student is None:
            return
        if self.model is not None:
            raise WheelsError(
                f"give --model or --student, not both: got --model {self.model} and --student {self.student}"
            )
        if self.teacher is None:
            raise WheelsError(f"student {self.student} needs its teacher; give it by --teacher")
        known = [rule.name for rule in RULES.values() if rule.known_rate]
        if self.method in BUDGETED and self.rule not in known:
            raise WheelsError(
                f"rule {self.rule!r} needs heads or thresholds, which --student has not; use --rule "
                f"{' or '.join(known)}, another --method than {' or '.join(BUDGETED)}, or --model with the "
                "folder of a model that was trained"
            )

    @property
    def is_remote(self) -> bool:
        """Whether the teacher is behind an address."""
        return is_address(self.teacher)

    def _check_remote(self) -> None:
        """Refuse what only a teacher at an address has, and what it has not."""
        check_teacher(self)
        for field in fields_of(type(self)):
            given = getattr(self, field.name)
            if field.group == ELSEWHERE and given != field.default and not self.is_remote and field.name != "span":
                raise WheelsError(f"{field.name} {given!r} is for a teacher behind an address; leave it out")
        if self.prices:
            Prices.of(self.prices)
        elif self.budget_dollars is not None:
            raise WheelsError("budget_dollars needs prices: give --prices prompt=...,completion=...")
        if self.mode == PACED and self.budget_mode != "average":
            raise WheelsError(
                f"budget_mode {self.budget_mode!r} keeps a teacher budget, and dollars are spread without one; give "
                "--teacher-budget too, or leave it out"
            )
