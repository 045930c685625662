"""Which prompt a command's settings ask for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from wheels.data.conversations import Conversation
from wheels.data.prompts import Prompt, chosen_prompt
from wheels.errors import WheelsError

OWN = Prompt("Q: {source}")
TRAINED = Prompt("Q: {source}", chat=True, system="Count.", arguments={"enable_thinking": False})


@dataclass(frozen=True)
class Settings:
    prompt: str | None = None
    chat_template: str = "auto"
    system_prompt: str | None = None
    template_args: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("settings", "own", "conversations", "expected"),
    [
        ({}, OWN, False, OWN),
        ({}, OWN, True, Prompt("Q: {source}", chat=True)),
        ({"chat_template": "on"}, OWN, False, Prompt("Q: {source}", chat=True)),
        ({"chat_template": "off"}, OWN, True, OWN),
        ({"prompt": "chat"}, OWN, False, Prompt(chat=True)),
        ({"prompt": "A {source}"}, OWN, False, Prompt("A {source}")),
        ({"prompt": "A {source}", "chat_template": "on"}, OWN, False, Prompt("A {source}", chat=True)),
        ({}, TRAINED, False, TRAINED),
        ({"chat_template": "off"}, TRAINED, True, OWN),
        ({"system_prompt": "Add."}, TRAINED, False, Prompt("Q: {source}", True, "Add.", {"enable_thinking": False})),
        (
            {"template_args": ("enable_thinking=true", "k=3", "name=a b", "flag=True")},
            TRAINED,
            False,
            Prompt("Q: {source}", True, "Count.", {"enable_thinking": True, "k": 3, "name": "a b", "flag": True}),
        ),
    ],
)
def test_the_prompt_that_settings_ask_for(settings, own, conversations, expected):
    assert chosen_prompt(Settings(**settings), own, conversations=conversations) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"system_prompt": "Count."}, "system_prompt: only a chat template reads it; add --chat-template on"),
        ({"template_args": ("a=1",)}, "template_args a: only a chat template reads it"),
        ({"prompt": "chat", "template_args": ("a",)}, "template_args must be NAME=VALUE, such as .*, got 'a'"),
        ({"prompt": "chat", "template_args": ("tokenize=false",)}, "template_args cannot set 'tokenize'"),
        ({"prompt": "chats"}, r"prompt must contain \{source\}"),
        ({"prompt": "chat", "chat_template": "off", "system_prompt": "Count."}, "only a chat template reads it"),
    ],
)
def test_what_nothing_would_read_is_refused(settings, message):
    with pytest.raises(WheelsError, match=message):
        chosen_prompt(Settings(**settings), OWN)


@pytest.mark.parametrize("prompt", [OWN, TRAINED, Prompt(chat=True)])
def test_what_is_noted_comes_back(prompt):
    assert Prompt.of(prompt.noted) == prompt
    assert Prompt.of(prompt) is prompt


def test_a_plain_prompt_is_noted_as_its_text():
    assert OWN.noted == "Q: {source}"
    assert Prompt.of("chat") == Prompt(chat=True)
    with pytest.raises(WheelsError, match="a prompt must be a text"):
        Prompt.of({"texts": "{source}"})


def test_the_text_goes_around_the_last_message():
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "{c}"}]
    messages = TRAINED.messages(Conversation(said))
    assert messages == [{"role": "system", "content": "Count."}, *said[:2], {"role": "user", "content": "Q: {c}"}]
    assert said[-1]["content"] == "{c}"
