"""A teacher of text: what is written goes out as text, and what comes back is put into the student's tokens.

It is any chat (`/chat/completions`), or `/v1/completions` of a model with a tokenizer of its own. A chat is asked in
its user's message, and goes on with the assistant's where the server continues one; else the beginning stands in the
message too, where `{written}` is in its text.

The student's tokens of what comes back are those that stand after its own text, so a call buys as many as that takes.
The space at its end is left to whoever writes next, and so is a character that lacks bytes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wheels.data.prompts import SOURCE_ALONE, Prompt
from wheels.decoding.across.spelling import UNFINISHED, Spelling
from wheels.decoding.remote.completions import Completions
from wheels.decoding.remote.protocol import Answer, Span, Student, TextSoFar
from wheels.decoding.remote.span import SpanRule
from wheels.decoding.sampling import Sampling
from wheels.endpoints.client import Client
from wheels.endpoints.options import WRITTEN
from wheels.endpoints.probe import CONTINUE, Probe
from wheels.errors import WheelsError

JOINED = "([{/-'\"“‘"
"""What a word follows without a space."""


@dataclass(frozen=True)
class Asked:
    """How a teacher is asked in words.

    Raises:
        WheelsError: for what cannot be asked so.
    """

    address: str
    """Where it is, for errors."""
    why: str
    """Why it is asked in words, for errors too."""
    prompt: Prompt
    """What the student reads of a source."""
    text: str | None
    """What the teacher reads of it, where that is another text."""
    chat: bool
    """Whether it is a chat."""
    continues: bool
    """Whether it continues the beginning of an answer."""
    echoes: bool
    """Whether that stands in its answer too."""
    is_seq2seq: bool
    """Whether the student is an encoder-decoder."""

    def __post_init__(self) -> None:
        """Check that the teacher is told what to do, and where to go on."""
        if self.prompt.chat and not self.chat:
            raise WheelsError(
                f"{self.address} reads plain text, and the prompt is a chat; give the address of its chat, such as "
                "http://host:port/v1/chat/completions"
            )
        if self.text is None and self.is_seq2seq and self.prompt.text == SOURCE_ALONE.text:
            raise WheelsError(
                f"{self.why}; so it is asked in words, and the student's prompt, {{source}}, says no task: say it by "
                "--teacher-prompt, such as 'Translate into English, and write nothing else: {source}'"
            )
        if not (self.continues or self.restates):
            raise WheelsError(
                f"{self.address} begins a new answer where it was to continue one; put its beginning into "
                "--teacher-prompt, such as '... {source} ... The answer begins like this; write only what comes next: "
                "{written}'"
            )

    @property
    def template(self) -> str:
        """The text around a source."""
        return self.prompt.text if self.text is None else self.text

    @property
    def restates(self) -> bool:
        """Whether the beginning of an output stands in what is asked."""
        return WRITTEN in self.template

    def body(self, source: str, written: str) -> dict[str, Any]:
        """Return what a request asks for one text; its `prompt`, or the `messages` of a chat."""
        if not self.chat:
            asked = self.template.format(source=source, written=written)
            return {"prompt": asked if self.restates else asked + written}
        *before, last = replace(self.prompt, text=SOURCE_ALONE.text, chat=True).messages(source)
        asked = self.template.format(source=last["content"], written=written)
        messages = [*before, {**last, "content": asked}]
        if self.restates or not written.strip():
            return {"messages": messages}
        return {"messages": [*messages, {"role": "assistant", "content": written.rstrip()}]} | CONTINUE

    def added(self, written: str, answer: str) -> str:
        """Return what an answer adds to what is written."""
        if not written.strip():
            return answer.lstrip() if self.chat else answer
        if not self.restates:
            begun = written.rstrip() if self.chat else written  # what it was sent
            return answer.removeprefix(begun if self.echoes else "").removeprefix(written[len(begun) :])
        rest = answer.lstrip().removeprefix(written.strip())
        return _gap(written, rest) + rest


def _gap(written: str, rest: str) -> str:
    """Return the space that is missing between two texts, the second of which begins with a word."""
    last, first = written[-1:], rest[:1]
    wide = unicodedata.east_asian_width(first or " ") in "WF" or unicodedata.east_asian_width(last) in "WF"
    return " " if first.isalnum() and not (last.isspace() or wide or last in JOINED) else ""


class TextCompletions(Completions):
    """A model that reads and writes text.

    Args:
        client: Sends the requests.
        model: What the server knows the model by.
        probe: What the server has.
        student: Whose teacher it is.
        asked: How it is asked; looked up at each request.
    """

    def __init__(self, client: Client, model: str, probe: Probe, student: Student, asked: Callable[[], Asked]) -> None:
        super().__init__(client, model, probe, student.vocab_size)
        self.student, self.asked = student, asked
        self.spelling = Spelling(student.tokenizer, not student.is_seq2seq)

    def reads(self, text: TextSoFar) -> int:
        """Return the tokens that the server reads for a text at most: one a byte, and the template of a chat."""
        body, said = self.asked().body(text.asked, self._written(text)), int(self.probe.usage.prompt)
        parts = [body["prompt"]] if "prompt" in body else [str(each["content"]) for each in body["messages"]]
        return said + sum(len(part.encode("utf-8", "replace")) for part in parts)

    def body(self, texts: Sequence[TextSoFar], rule: SpanRule, sampling: Sampling) -> dict[str, Any]:
        """Return the body of a request; a chat is asked for one text."""
        asked = self.asked()
        each = [asked.body(text.asked, self._written(text)) for text in texts]
        body: dict[str, Any] = {"model": self.model, "max_tokens": rule.most, "temperature": sampling.temperature}
        body |= each[0]
        if self.probe.batches:
            body["prompt"] = [one["prompt"] for one in each]
        return body | self._sampled(texts, sampling)

    def _answer(self, choice: Mapping[str, Any], text: TextSoFar, rule: SpanRule) -> Answer:
        """Return what a choice holds in the student's tokens, or what is wrong with it."""
        found, reason = choice.get("text"), choice.get("finish_reason")
        if wrong := self._unfinished(reason):
            return wrong
        if not isinstance(found, str):
            return self._unusable("answers without a text")
        written, ended = self._written(text), reason == "stop"
        added = self.asked().added(written, found)
        if (place := rule.end_in(added)) < len(added):
            added, ended = added[:place], False
        if not ended:
            added = added.rstrip(UNFINISHED)
            added = added.rstrip() or added
        if not (added or ended):
            return self._unusable(
                "answers with no text, and wrote all that it was asked for: did it think, or repeat what is there?"
            )
        stands, tokens = len(text.written), list[int]()
        if added:
            stands, tokens = self.spelling.continued(text.source, list(text.written), written, added)
        first = [self.student.first] if not text.written and self.student.first is not None else []
        tokens = [*(first if tokens[:1] != first else []), *tokens, *([self.student.end] if ended else [])]
        tokens = tokens[: text.limit - stands]
        if not tokens:
            return self._unusable(f"answers with a text that the student cannot spell: {added[:40]!r}")
        return Answer(Span(tuple(tokens), ended, anew=len(text.written) - stands))

    def _written(self, text: TextSoFar) -> str:
        """Return the text of an output so far."""
        return self.spelling.text(text.source, text.written).rstrip(UNFINISHED)
