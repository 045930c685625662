"""Rows of messages: what is the source, what is the target, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

from wheels.data.conversations import Conversation
from wheels.data.rows import load_rows
from wheels.data.tasks import Task, digest, load_task
from wheels.errors import WheelsError

SYSTEM = {"role": "system", "content": "You count."}
ASK = {"role": "user", "content": "Two and three?"}
SAID = {"role": "assistant", "content": "Five."}
AGAIN = {"role": "user", "content": "And three?"}
ANSWER = {"role": "assistant", "content": "Eight."}


def written(tmp_path: Path, *records: dict) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_last_message_of_the_assistant_is_the_target(tmp_path):
    path = written(
        tmp_path,
        {"messages": [SYSTEM, ASK, SAID, AGAIN, ANSWER]},
        {"messages": [{**ASK, "name": None}, {**SAID, "mood": "sure"}]},
    )
    several, one = load_rows(path)
    assert several.source.messages == (SYSTEM, ASK, SAID, AGAIN) and several.target == "Eight."
    assert several.source == "system: You count.\nuser: Two and three?\nassistant: Five.\nuser: And three?"
    assert one.source == ASK["content"] and one.source.messages == (ASK,) and one.target == "Five."
    assert one.source.is_text and not several.source.is_text


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"prompt": [ASK, SAID, AGAIN], "completion": [ANSWER]}, {"source": "prompt", "target": "completion"}),
        ({"messages": [ASK, SAID, AGAIN], "target": "Eight."}, {}),
        ({"chat": {"messages": [ASK, SAID, AGAIN, ANSWER]}}, {"source": "chat.messages"}),
        ({"messages": [ASK, SAID, AGAIN, ANSWER], "target": "another"}, {}),
    ],
)
def test_other_places_of_messages_and_answers(tmp_path, record, columns):
    [row] = load_rows(written(tmp_path, record), **columns)
    assert row.source.messages == (ASK, SAID, AGAIN) and row.target == "Eight."


def test_without_an_answer_where_none_is_required(tmp_path):
    path = written(tmp_path, {"messages": [ASK]})
    [row] = load_rows(path, require_target=False)
    assert row.source.messages == (ASK,) and row.target == ""
    with pytest.raises(WheelsError, match=r"rows.jsonl:1: no column 'target'; the columns are: messages"):
        load_rows(path)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"rows.jsonl:1: 'messages' must be a list of messages, objects with role and content, got \[\]"),
        (["Hi"], "must be a list of messages, got a string as number 1"),
        ([ASK, {"role": "user"}], "has a message, number 2, whose content must be a string, got none"),
        (
            [{"role": "user", "content": [{"text": "Hi"}]}],
            "has a message, number 1, whose content must be a string, got a list",
        ),
        ([{"role": " ", "content": "Hi"}], "has a message, number 1, with an empty role"),
        ([ASK, {"role": "assistant", "content": " "}], "has an empty message, number 2, at its end"),
        ([ANSWER], "ends with a message of the assistant that answers no other one"),
        ([ASK, SAID, ANSWER], "ends with a message of the assistant that answers no other one"),
    ],
)
def test_what_is_no_conversation_names_its_line(tmp_path, messages, message):
    with pytest.raises(WheelsError, match=message):
        load_rows(written(tmp_path, {"messages": messages}))


@pytest.mark.parametrize("target", [[], [ASK], [SAID, ANSWER]])
def test_a_target_of_messages_is_one_of_the_assistant(tmp_path, target):
    with pytest.raises(WheelsError, match=r"rows\.jsonl:1: "):
        load_rows(written(tmp_path, {"messages": [ASK], "target": target}))


def test_a_column_named_source_is_read_first(tmp_path):
    [row] = load_rows(written(tmp_path, {"source": "text", "target": "Text", "messages": [ASK, SAID]}))
    assert (row.source, row.target) == ("text", "Text") and not isinstance(row.source, Conversation)


def test_a_conversation_is_a_text_that_can_be_copied_and_passed_on():
    made = Conversation([SYSTEM, {**ASK, "name": "Ann"}])
    assert made == 'system: You count.\nuser: Two and three? {"name": "Ann"}'
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(other) is Conversation and other == made and other.messages == made.messages
    with pytest.raises(WheelsError, match="ends with the assistant's message; its text is the target"):
        Conversation([ASK, SAID])


def test_a_task_tells_whether_it_holds_conversations(tmp_path):
    task = load_task(written(tmp_path, {"messages": [ASK, SAID]}, {"messages": [ASK, SAID, AGAIN, ANSWER]}))
    assert task.holds_conversations
    assert digest(task.splits) != digest({"all": task.train[:1]})
    assert not Task(
        "plain", {"train": load_rows(written(tmp_path, {"source": "a", "target": "b"}))}
    ).holds_conversations
