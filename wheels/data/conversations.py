"""Conversations: rows whose source is a list of messages, as chat templates read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from wheels.errors import WheelsError, shown
from wheels.json_text import kind_of_value

COLUMN = "messages"
"""The column of conversations that is read where the rows have no `source`."""
USER, ASSISTANT = "user", "assistant"

Message = Mapping[str, Any]
"""`role` and `content`, both texts; whatever else it holds goes to the chat template as it is."""


class Conversation(str):
    """A source that is a conversation: a text like any other source, which carries its messages.

    It is made of messages with `role` and `content`; the last one is the one to answer. As a text it is its last
    message where it has one alone, else a line `role: content` for each message.
    """

    messages: tuple[Message, ...]

    def __new__(cls, messages: Sequence[Message]) -> Conversation:
        """Make the text of the messages.

        Raises:
            WheelsError: for what is no such list.
        """
        kept = check_messages(messages)
        if kept[-1]["role"] == ASSISTANT:
            raise WheelsError("a conversation ends with the assistant's message; its text is the target, not a source")
        alone = len(kept) == 1 and kept[0]["role"] == USER
        self = super().__new__(cls, kept[0]["content"] if alone else "\n".join(map(_line, kept)))
        self.messages = kept
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Return what a copy is made from."""
        return (self.messages,)

    @property
    def is_text(self) -> bool:
        """Whether it is no more than one text of a user."""
        return len(self.messages) == 1 and self.messages[0]["role"] == USER


def is_list(value: object) -> bool:
    """Whether a column holds a list, as one of messages does."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def check_messages(value: object) -> tuple[Message, ...]:
    """Return the messages of a conversation, without empty fields.

    Raises:
        WheelsError: where it is no list of messages with a role and a text each, or the last is empty.
    """
    if not isinstance(value, Sequence) or not is_list(value) or not value:
        raise WheelsError(f"must be a list of messages, objects with role and content, got {shown(value)}")
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise WheelsError(f"must be a list of messages, got {kind_of_value(message)} as number {number}")
        for name in ("role", "content"):
            if not isinstance(message.get(name), str):
                kind = kind_of_value(message[name]) if name in message else "none"
                raise WheelsError(f"has a message, number {number}, whose {name} must be a string, got {kind}")
        if not message["role"].strip():
            raise WheelsError(f"has a message, number {number}, with an empty role; write user, assistant or system")
        # Libraries of tables fill what some messages lack with None, which a template may take for a value.
        messages.append({name: part for name, part in message.items() if part is not None})
    if not messages[-1]["content"].strip():
        raise WheelsError(f"has an empty message, number {len(messages)}, at its end; drop the row or fill it in")
    return tuple(messages)


def split_answer(messages: tuple[Message, ...]) -> tuple[Conversation, str]:
    """Return the conversation up to its last message of the assistant, and that message's text; "" where it has none.

    Raises:
        WheelsError: where there is nothing before it.
    """
    if messages[-1]["role"] != ASSISTANT:
        return Conversation(messages), ""
    if len(messages) == 1 or messages[-2]["role"] == ASSISTANT:
        raise WheelsError("ends with a message of the assistant that answers no other one; put a user's before it")
    return Conversation(messages[:-1]), messages[-1]["content"]


def answer_of(value: object) -> str:
    """Return the text of a target that is a list of one message of the assistant.

    Raises:
        WheelsError: for any other list.
    """
    messages = check_messages(value)
    if len(messages) != 1 or messages[0]["role"] != ASSISTANT:
        raise WheelsError(f"must be one message of the assistant, got {len(messages)} of any role")
    return str(messages[0]["content"])


def _line(message: Message) -> str:
    """Return a message as a line of text, with what else it holds."""
    more = {name: part for name, part in message.items() if name not in ("role", "content")}
    return f"{message['role']}: {message['content']}" + (f" {json.dumps(more, sort_keys=True)}" if more else "")
