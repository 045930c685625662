"""The bodies of requests: OpenAI's fields and ours, each honoured or refused, none ignored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wheels.decoding.methods.choices import METHODS, MODES
from wheels.decoding.serve.errors import Refused
from wheels.errors import WheelsError, check_choice, did_you_mean, shown
from wheels.json_text import parse_json

LARGEST_SEED = 2**60
MOST_CHOICES, MOST_STOPS, MOST_LOGPROBS = 128, 4, 20

Token = Annotated[int, Field(ge=0)]
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "prediction": (),
    "audio": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
"""What OpenAI's API has and this server has not, with the values that ask for nothing; null always does."""


class StreamOptions(BaseModel):
    """What a stream holds beside its text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    """Whether a last chunk has the usage."""


class Body(BaseModel, ABC):
    """What both endpoints take."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """The client's own name for who asks; nothing is kept of it."""
    metadata: dict[str, str] | None = None
    """The client's own notes; nothing is kept of them."""
    method: str | None = Field(None, json_schema_extra={"enum": [*METHODS, None]})
    """How the two models write together, as in `wheels generate`."""
    teacher_budget: float | None = Field(None, ge=0, le=1)
    """The share of the tokens that the teacher may write."""
    budget_mode: str | None = Field(None, json_schema_extra={"enum": [*MODES, None]})
    """Who keeps the budget."""
    rule: str | None = None
    """What decides to call the teacher."""
    return_authors: bool | None = None
    """Whether each choice has its tokens with who wrote them."""
    return_token_ids: bool | None = None
    """Whether each choice has the ids of its tokens, and the first answer those of the prompt."""

    return_alternatives: bool | None = None
    """Whether each choice ends with what the other model would have written in place of each token."""

    @property
    def stops(self) -> list[str]:
        """The texts that end a choice."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    @abstractmethod
    def best(self) -> int | None:
        """How many of the best tokens are told at each place, with their log-probabilities; None: no place's."""

    @property
    def longest(self) -> int | None:
        """The most tokens that were asked for."""
        return self.max_tokens

    def check(self) -> None:
        """Refuse words that are none of ours, and fields that do not go together."""
        for name, allowed in (("method", METHODS), ("budget_mode", MODES)):
            try:
                check_choice(name, getattr(self, name) or allowed[0], allowed)
            except WheelsError as error:
                raise Refused(400, str(error), param=name, code="invalid_value") from None
        if len(self.stops) > MOST_STOPS or not all(self.stops):
            raise Refused(400, f"stop must be up to {MOST_STOPS} texts, none of them empty", param="stop")
        if self.stream_options is not None and not self.stream:
            raise Refused(400, "stream_options is for a stream: set stream, or leave it out", param="stream_options")


class CompletionBody(Body):
    """The body of `/v1/completions`."""

    max_tokens: int | None = Field(None, ge=0)
    prompt: str | list[str] | list[Token] | list[list[Token]]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    """Whether each choice begins with its prompt, and its log-probabilities with those of the prompt."""
    written_token_ids: list[list[Token]] | None = None
    """For each prompt the tokens of its output so far: `max_tokens` more are written after them."""
    text_limits: list[Annotated[int, Field(ge=1)]] | None = None
    """For each prompt the most tokens of its whole output, which some models treat as its end."""
    prompt_logprobs: int | None = Field(None, ge=1)
    """How many of the teacher's best tokens are told in place of each that stands there, with their log-probabilities;
    nothing is written then (`max_tokens` 0)."""

    @property
    def best(self) -> int | None:
        """As `Body.best`."""
        return self.logprobs

    def check(self) -> None:
        """Refuse limits of texts that do not go on, and what does not go with scores."""
        super().check()
        if (self.prompt_logprobs is not None) != (self.max_tokens == 0):
            raise Refused(
                400,
                "prompt_logprobs scores tokens and writes none, and max_tokens 0 is for it alone: give both or neither",
                param="max_tokens",
            )
        if self.prompt_logprobs is not None and (self.stream or self.n not in (None, 1)):
            raise Refused(400, "prompt_logprobs is told at once, and once: leave stream and n out", param="stream")
        if self.echo and (self.stream or self.prompt_logprobs is not None or self.written_token_ids is not None):
            raise Refused(
                400, "echo is for a whole answer after a prompt: leave stream and what is ours out", param="echo"
            )
        if self.text_limits is not None and self.written_token_ids is None:
            raise Refused(400, "text_limits is for texts that go on: give written_token_ids", param="text_limits")


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """All of its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(Body):
    """The body of `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    @property
    def best(self) -> int | None:
        """As `Body.best`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def longest(self) -> int | None:
        """As `Body.longest`; the newer name wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def check(self) -> None:
        """Refuse fields that do not go together."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise Refused(400, "top_logprobs needs logprobs: set it to true", param="top_logprobs")


Kind = TypeVar("Kind", bound=Body)


def read_body(content: bytes, kind: type[Kind]) -> Kind:
    """Return the body of a request.

    Raises:
        Refused: for what is not JSON, not an object, or holds what this server does not do.
    """
    try:
        values = parse_json(content, "the body")
    except WheelsError as error:
        raise Refused(400, str(error), code="invalid_json") from None
    if not isinstance(values, dict):
        raise Refused(400, f"the body must be a JSON object, got {shown(values)}", code="invalid_type")
    _check_names(values, kind)
    try:
        body = kind.model_validate({name: value for name, value in values.items() if name not in NEUTRAL})
    except ValidationError as error:
        raise _refused(error) from None
    body.check()
    return body


def _check_names(values: dict[str, Any], kind: type[Body]) -> None:
    """Refuse what is unknown, and what is known but not done here."""
    for name, value in values.items():
        if name in NEUTRAL and value is not None and not any(_same(value, each) for each in NEUTRAL[name]):
            raise Refused(
                400, f"this server does not do {name}; leave it out", param=name, code="unsupported_parameter"
            )
        if name not in NEUTRAL and name not in kind.model_fields:
            hint = did_you_mean(name, kind.model_fields)
            raise Refused(400, f"unknown field {shown(name)}{hint}", param=name[:100], code="unknown_parameter")


def _same(given: Any, neutral: Any) -> bool:
    """Tell whether a value is a neutral one; true is not 1."""
    return given == neutral and isinstance(given, bool) == isinstance(neutral, bool)


def _refused(error: ValidationError) -> Refused:
    """Return the first of pydantic's findings as a refusal: the field, what it must be, what was given."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "missing":
        return Refused(400, f"{'.'.join(path)} is missing", param=path[0], code="missing_required_parameter")
    message = f"{path[0]}: {first['msg'][0].lower()}{first['msg'][1:]}, got {shown(first['input'])}"
    return Refused(400, message, param=path[0], code="invalid_value")
