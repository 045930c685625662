"""Prompts: what a model reads of a row. A text around the source, or a conversation in its tokenizer's chat template.

Whether the chat template is used is decided once, by `chosen_prompt`, and noted in the folder of the trained model:

    chat_template   on: every source becomes the message of a user; off: none does
                    auto (the default): on where the rows are conversations (`messages`), the prompt is `chat`, or the
                    model was trained so
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from wheels.config.fields import Option
from wheels.data.conversations import USER, Conversation, Message
from wheels.data.tasks import check_prompt
from wheels.errors import WheelsError, check_choice

CHAT = "chat"
"""The prompt that stands for `{source}` in the chat template."""
CHAT_CHOICES = ("auto", "on", "off")
TAKEN = (
    "conversation",
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "tools",
    "documents",
)
"""What a chat template is always given, or not at all."""


@dataclass(frozen=True)
class Prompt:
    """What a model reads of a source: see `wheels.models.encoding`.

    Raises:
        WheelsError: for a text without `{source}`, or arguments that no template takes.
    """

    text: str = "{source}"
    """The text around the source; of a conversation, around its last message."""
    chat: bool = False
    """Whether that is said by a user in the tokenizer's chat template."""
    system: str | None = None
    """The system's message at the beginning, for conversations without one."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the chat template is told besides, such as `enable_thinking`."""

    def __post_init__(self) -> None:
        """Check the text and the arguments."""
        check_prompt(self.text)
        if not self.chat and (self.system is not None or self.arguments):
            what = f"template_args {', '.join(self.arguments)}" if self.system is None else "system_prompt"
            raise WheelsError(f"{what}: only a chat template reads it; add --chat-template on")
        for name in self.arguments:
            if name in TAKEN or not name.isidentifier():
                raise WheelsError(f"template_args cannot set {name!r}; give what the template itself asks for")

    @classmethod
    def of(cls, given: Prompt | str | Mapping[str, Any]) -> Prompt:
        """Return the prompt of a text, of `chat`, or of what `noted` wrote.

        Raises:
            WheelsError: for anything else.
        """
        if isinstance(given, Prompt):
            return given
        if isinstance(given, str):
            return cls(chat=True) if given == CHAT else cls(given)
        try:
            return cls(**given)
        except TypeError:
            raise WheelsError(f"a prompt must be a text with {{source}}, or {CHAT}, got {given!r}") from None

    @property
    def noted(self) -> str | dict[str, Any]:
        """What is noted in the folder of a trained model: the text where it is all there is."""
        return asdict(self) | {"arguments": dict(self.arguments)} if self.chat else self.text

    def filled(self, source: str) -> str:
        """Return the text around a source."""
        return self.text.format(source=source)

    def messages(self, source: str) -> list[Message]:
        """Return the conversation that a source is: the system's message, what was said, the text around the last."""
        said = source.messages if isinstance(source, Conversation) else ({"role": USER, "content": source},)
        last = {**said[-1], "content": self.filled(said[-1]["content"])}
        begun = said[0]["role"] in ("system", "developer")
        opening = [] if self.system is None or begun else [{"role": "system", "content": self.system}]
        return [*opening, *said[:-1], last]


SOURCE_ALONE = Prompt()
"""The source as it is."""


class PromptSettings(Protocol):
    """The settings of a command that reads rows: see `prompt_options`."""

    @property
    def prompt(self) -> str | None:
        """The text around a source, or `chat`; None: what the model or task has."""

    @property
    def chat_template(self) -> str:
        """`auto`, `on` or `off`."""

    @property
    def system_prompt(self) -> str | None:
        """The system's message."""

    @property
    def template_args(self) -> tuple[str, ...]:
        """What the template is told besides, as NAME=VALUE."""


def prompt_options(group: Option, default: str) -> tuple[Any, Any, Any, Any]:
    """Return the fields `prompt`, `chat_template`, `system_prompt` and `template_args` of a command.

    Args:
        group: what makes its options.
        default: the words for the prompt where none is given.
    """
    return (
        group(None, f"text that a model reads, with {{source}} in it, or chat (default: {default})", check=check_given),
        group("auto", "chat template; auto: for messages, --prompt chat, and models trained so", choices=CHAT_CHOICES),
        group(None, "the system's message in the chat template"),
        group((), "what the chat template is told besides, such as enable_thinking=false", metavar="NAME=VALUE"),
    )


def check_given(name: str, prompt: str) -> None:
    """Refuse a prompt that is neither `chat` nor has a place for the source."""
    if prompt != CHAT:
        check_prompt(prompt)


def chosen_prompt(settings: PromptSettings, own: Prompt, *, conversations: bool = False) -> Prompt:
    """Return the prompt that a command's settings ask for.

    Args:
        settings: of the command.
        own: of the model or the task, for what the settings leave open.
        conversations: whether the rows are conversations.

    Raises:
        WheelsError: for what only a chat template reads, without one.
    """
    check_choice("chat_template", settings.chat_template, CHAT_CHOICES)
    asked = own.chat or settings.prompt == CHAT or conversations
    chat = asked if settings.chat_template == "auto" else settings.chat_template == "on"
    text = own.text if settings.prompt is None else Prompt.of(settings.prompt).text
    if not chat:
        own = replace(own, chat=False, system=None, arguments={})
    system = own.system if settings.system_prompt is None else settings.system_prompt
    return Prompt(text, chat, system, {**own.arguments, **arguments_of(settings.template_args)})


def arguments_of(given: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments of a chat template: JSON values where they are any, else texts.

    Raises:
        WheelsError: for one without a name or a value.
    """
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name.strip() or not equals:
            raise WheelsError(f"template_args must be NAME=VALUE, such as enable_thinking=false, got {pair!r}")
        try:
            found[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            found[name.strip()] = {"True": True, "False": False, "None": None}.get(value, value)
    return found
