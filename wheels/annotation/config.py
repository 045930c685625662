"""The configuration of `wheels annotate`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from wheels.annotation.grades import GRADE_PROMPT
from wheels.config.fields import MOST_THREADS, REQUIRED, check_fields, machine_option, option, option_group
from wheels.config.paths import PLACE, RUN, SETTINGS
from wheels.data.options import bad_rows_option
from wheels.data.tasks import check_prompt, check_template
from wheels.endpoints.address import is_address
from wheels.errors import WheelsError
from wheels.secret import DEFAULT_KEY, read_secret

SELECTIONS = ("random", "consistency", "assistant")
"""At random; by the student's self-consistency alone, (I); by that and the assistant's grade of its answer."""
GRADINGS = ("likelihood", "prompt")
METRICS = ("exact", "answer", "equation", "chrf", "bleu", "rouge1", "rouge2", "rougeL")
TEACHER_PROMPT = "{demonstrations}Question: {source}\nAnswer:"
DEMONSTRATION = "Question: {source}\nAnswer: {target}\n\n"


data_option = option_group("data")
endpoint_option = option_group("endpoints")
selection_option = option_group("selection")
retrain_option = option_group("retraining of the student")
grade_option = option_group("the assistant's grades")
prompt_option = option_group("prompts and answers")


@dataclass(frozen=True)
class AnnotateConfig:
    """A run of `wheels annotate`: an unlabelled file in, a labelled training file out, under a budget."""

    input: str = option(REQUIRED, "unlabelled rows to choose from (.jsonl or .jsonl.gz)", metavar="FILE", reads=PLACE)
    output: str = option(
        REQUIRED, "folder for the labelled file, the ledger and the summary", metavar="DIR", writes=RUN
    )
    annotation_budget: int = option(REQUIRED, "annotations to ask the teacher for; more continue a run", minimum=1)
    teacher: str = option(REQUIRED, "folder of a model, or http(s)://... of an OpenAI-compatible endpoint", reads=PLACE)
    teacher_model: str | None = endpoint_option(None, "name of the teacher at its endpoint", metavar="NAME")
    teacher_key: str = endpoint_option(DEFAULT_KEY, "environment variable that holds its key", metavar="NAME")
    assistant: str | None = option(None, "the teaching assistant, as --teacher; without it no grades", reads=PLACE)
    assistant_model: str | None = endpoint_option(None, "name of the assistant at its endpoint", metavar="NAME")
    assistant_key: str = endpoint_option(DEFAULT_KEY, "environment variable that holds its key", metavar="NAME")
    student: str | None = option(None, "model whose doubts choose the rows", metavar="DIR", reads=PLACE)
    data: str | None = option(
        None,
        "folder of labelled rows: train (demonstrations, retraining), validation (grades)",
        metavar="DATA",
        reads=PLACE,
    )
    source: str = data_option("source", "column of the sources; dots reach nested ones", metavar="NAME")
    target: str = data_option("target", "column of the targets of labelled rows", metavar="NAME")
    bad_rows: str = bad_rows_option(data_option)
    limit: int | None = option(None, "read only so many rows of each file", minimum=1)

    select: str = option(
        "assistant", "rows to annotate: by the student's doubt (and its assistant's)", choices=SELECTIONS
    )
    filter: bool = selection_option(True, "leave out annotations that the assistant is not confident in")
    warm_up: float = selection_option(
        0.1, "share of the budget spent at random first, to retrain the student on", share=True
    )
    retrain: str | None = retrain_option(None, "YAML of flags of `wheels pretrain`", metavar="FILE", reads=SETTINGS)
    rehearse: bool = retrain_option(True, "retrain on the labelled rows too, not only on annotations")
    samples: int = selection_option(5, "answers that the student samples for each row", minimum=2)
    temperature: float = selection_option(1.0, "temperature of these samples", minimum=0.01)
    metric: str = selection_option("exact", "tells which answers agree, and are right", choices=METRICS)

    grading: str | None = grade_option(
        None, "how the assistant grades (default: endpoints by prompt)", choices=GRADINGS
    )
    grade_quantiles: tuple[float, ...] = grade_option(
        (0.5, 0.1, 0.5), "cuts of likelihoods: very confident, confident (of right answers), wrong (of wrong ones)"
    )
    grade_prompt: str = grade_option(GRADE_PROMPT, "text with {source} and {answer}", metavar="TEXT")
    demonstrations: int = prompt_option(0, "labelled rows shown in each prompt of the teacher", minimum=0)
    teacher_prompt: str = prompt_option(TEACHER_PROMPT, "text with {source} and {demonstrations}", metavar="TEXT")
    prompt: str = prompt_option("{source}", "text that causal models in folders read, with {source}", metavar="TEXT")

    workers: int = endpoint_option(8, "requests at once", minimum=1, maximum=256)
    timeout: float = endpoint_option(60.0, "seconds for one request", minimum=0.01)
    attempts: int = endpoint_option(8, "requests for one item that fails", minimum=1)
    skip_failed: bool = endpoint_option(False, "leave out rows that get no answer after that, and ask for others")
    backoff: float = endpoint_option(0.5, "seconds of the first wait between attempts, doubled each time", minimum=0.0)
    max_new_tokens: int = prompt_option(128, "longest answer, in tokens", minimum=1)
    batch_size: int = machine_option(64, "rows at a time, of models in folders", minimum=1)
    seed: int = selection_option(0, "seed of the order of rows, samples and retraining", minimum=0)
    dry_run: bool = option(False, "print what would be spent, and send nothing")
    device: str = machine_option("cpu", "device of models in folders, such as cpu or cuda")
    threads: int = machine_option(0, "CPU threads; 0: torch's choice", minimum=0, maximum=MOST_THREADS)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            WheelsError: for a value that is not allowed, or fields that contradict each other.
        """
        check_fields(self)
        check_prompt(self.prompt)
        check_template("grade_prompt", self.grade_prompt, "source", "answer")
        self._check_models()
        self._check_stages()
        check_template("teacher_prompt", self.teacher_prompt, "source", "demonstrations")
        for name in ("input", "output"):
            if not getattr(self, name):
                raise WheelsError(f"{name} must not be empty")

    def _check_models(self) -> None:
        """Check that each address comes with a model's name, and that the assistant can grade in the chosen way."""
        for role in ("teacher", "assistant"):
            place, name = getattr(self, role), getattr(self, f"{role}_model")
            if is_address(place) and not name:
                raise WheelsError(f"an endpoint serves models by name: give --{role}-model NAME")
            if name and not is_address(place):
                raise WheelsError(
                    f"{role}_model {name!r} is a name at an endpoint, but {role} is no http(s):// address"
                )
            key = getattr(self, f"{role}_key")
            if key != DEFAULT_KEY or is_address(place):
                read_secret(key, f"--{role}-key")
        if is_address(self.assistant) and self.grading == "likelihood":
            raise WheelsError("an endpoint gives no likelihoods; use --grading prompt, or an assistant in a folder")
        if self.grading is not None and self.assistant is None:
            raise WheelsError(f"grading {self.grading!r} needs --assistant")

    def _check_stages(self) -> None:
        """Check what each stage needs."""
        if self.select == "assistant" and self.assistant is None:
            raise WheelsError("select 'assistant' needs --assistant; without one use --select consistency or random")
        if self.select != "random" and self.student is None:
            raise WheelsError(f"select {self.select!r} needs --student; without one use --select random")
        if self.retrains and (self.student is None or self.data is None):
            raise WheelsError(
                "a warm-up retrains the student: give --student and --data (labelled rows), or --warm-up 0"
            )
        if self.demonstrations and self.data is None:
            raise WheelsError("demonstrations are labelled rows: give --data, or --demonstrations 0")
        if self.calibrates and (self.student is None or self.data is None):
            raise WheelsError("grades by likelihood are calibrated: give --student and --data (labelled rows)")

    @property
    def retrains(self) -> bool:
        """Whether there may be two stages, with a retraining between them."""
        return self.select != "random" and 0.0 < self.warm_up < 1.0

    def warm_up_of(self, budget: int) -> int:
        """Return the annotations of the first stage, chosen at random; 0 where the second is random too."""
        return 0 if self.select == "random" else min(round(self.warm_up * budget), budget)

    @property
    def calibrates(self) -> bool:
        """Whether the assistant grades by likelihood."""
        return self.assistant is not None and self.how_graded == "likelihood"

    @property
    def how_graded(self) -> str:
        """`prompt` or `likelihood`."""
        return self.grading or ("prompt" if is_address(self.assistant) else "likelihood")
