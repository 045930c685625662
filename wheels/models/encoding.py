"""Where a row becomes tokens: the source in its prompt or chat template, the target as a model writes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wheels.data.conversations import ASSISTANT, Conversation, Message
from wheels.data.prompts import SOURCE_ALONE, Prompt
from wheels.errors import WheelsError, check_texts, shown
from wheels.models.loading import Tokenizer


class EmptyPrompt(WheelsError):
    """A source of a causal model that has no token at all."""


def encode_sources(
    tokenizer: Tokenizer, sources: Sequence[str], *, is_seq2seq: bool, prompt: Prompt = SOURCE_ALONE
) -> list[list[int]]:
    """Return the tokens a model reads before it writes.

    With a chat template these are the tokens of `tokenizer.apply_chat_template(messages, add_generation_prompt=True)`.
    Without one, a sequence-to-sequence model: with the end token its tokenizer adds; a causal model: with the begin
    token its tokenizer adds, once, and without an end token.

    Raises:
        EmptyPrompt: where a causal prompt comes out with no token at all.
        WheelsError: where a conversation has no chat template, or the template refuses it.
    """
    sources = check_texts("sources", sources)
    if not sources:
        return []
    check_chat(tokenizer, prompt, is_seq2seq=is_seq2seq)
    texts = [written_prompt(tokenizer, prompt, source) for source in sources]
    rows = token_ids(tokenizer, texts, add_special_tokens=not prompt.chat)
    if is_seq2seq or prompt.chat:
        return rows
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    rows = [ids[:-1] if ids and ids[-1] == eos and eos != bos else ids for ids in rows]
    # A prompt may hold the begin token as text, as chat templates do.
    rows = [ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids for ids in rows]
    for number, ids in enumerate(rows):
        if not ids:
            raise EmptyPrompt(
                f"source {number} gives an empty prompt; a causal model needs text: put some in the prompt"
            )
    return rows


def written_prompt(tokenizer: Tokenizer, prompt: Prompt, source: str) -> str:
    """Return what a model reads of a source, as text: with a chat template, the special tokens stand in it.

    Raises:
        WheelsError: for a conversation of several messages without a chat template, which alone puts them in order.
    """
    if prompt.chat:
        return rendered(tokenizer, prompt, prompt.messages(source))
    if isinstance(source, Conversation) and not source.is_text:
        start = source[:40].replace("\n", " ")
        raise WheelsError(
            f"a source is a conversation of {len(source.messages)} messages ({start!r}...), and no chat template is "
            "read; train with --chat-template on, or give --prompt chat"
        )
    return prompt.filled(source)


def check_chat(tokenizer: Tokenizer, prompt: Prompt, *, is_seq2seq: bool) -> None:
    """Refuse a chat template where there is none, and arguments that it does not read.

    Raises:
        WheelsError: naming what is missing.
    """
    if not prompt.chat:
        return
    if is_seq2seq:
        raise WheelsError("chat templates are for causal models, and these are sequence-to-sequence ones; leave it off")
    if not tokenizer.chat_template:
        raise WheelsError(
            f"the tokenizer {str(tokenizer.name_or_path)!r} has no chat template; give models that have one, or "
            "--chat-template off and rows of plain texts"
        )
    template = own_template(tokenizer)
    for name in prompt.arguments:
        if not re.search(rf"\b{name}\b", template):
            raise WheelsError(f"the chat template reads no {name!r}; leave it out of template_args")
    if prompt.system is not None:
        texts = [rendered(tokenizer, asked, asked.messages(".")) for asked in (prompt, replace(prompt, system=None))]
        if texts[0] == texts[1]:
            raise WheelsError("the chat template leaves the system's message out; leave system_prompt out too")


def own_template(tokenizer: Tokenizer) -> str:
    """Return the chat template of a tokenizer: the default one where it has several; "" where it has none."""
    given: Any = tokenizer.chat_template or ""
    return str(given.get("default", "")) if isinstance(given, dict) else str(given)


def rendered(tokenizer: Tokenizer, prompt: Prompt, messages: Sequence[Message], *, opens: bool = True) -> str:
    """Return the text of a conversation in the chat template.

    Args:
        tokenizer: whose template it is.
        prompt: with what the template is told besides.
        messages: of the conversation.
        opens: whether the assistant's next message is begun (the generation prompt).

    Raises:
        WheelsError: with what the template says where it refuses the conversation.
    """
    from jinja2 import TemplateError

    given: Any = [dict(message) for message in messages]
    try:
        text: Any = tokenizer.apply_chat_template(
            given, tokenize=False, add_generation_prompt=opens, **prompt.arguments
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise WheelsError(f"the chat template refuses a conversation of {roles}: {error}") from error
    return str(text)


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[list[int]]:
    """Return the tokens of texts; in those of a chat template every special token stands already."""
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=add_special_tokens)["input_ids"]]


def encode_targets(
    tokenizer: Tokenizer,
    targets: Sequence[str],
    eos_ids: Sequence[int],
    *,
    prompt: Prompt = SOURCE_ALONE,
    first: int | None = None,
) -> list[list[int]]:
    """Return the tokens of each target as a model writes them: exactly one end token, whatever its tokenizer adds.

    With a chat template these are the tokens of the assistant's message in it, up to the token that ends it.

    Args:
        tokenizer: cuts the texts.
        targets: the texts.
        eos_ids: end a text; the first of them where no other does.
        prompt: whose chat template a target is the answer in, if it has one.
        first: begins each: what `generate` forces (`forced_bos_token_id`) and reads from then on. None: nothing.
    """
    targets = check_texts("targets", targets)
    if not targets:
        return []
    if prompt.chat:
        asked = prompt.messages(".")
        opening = rendered(tokenizer, prompt, asked)
        answers = (answer_after(tokenizer, prompt, asked, opening, target) for target in targets)
        return [_ended(tokenizer, read, answer, eos_ids) for read, answer in answers]
    begin = [] if first is None else [first]
    rows = tokenizer(text_target=targets, add_special_tokens=False)["input_ids"]
    return [[*begin, *ids, eos_ids[0]] for ids in rows]


def answer_after(
    tokenizer: Tokenizer, prompt: Prompt, asked: Sequence[Message], opening: str, target: str
) -> tuple[str, str]:
    """Return what is read before an answer, and the answer's text with what the template puts after it.

    What is read is `opening`, which ends in the generation prompt. Where a template gives a finished answer another
    beginning than that (some drop thoughts), nothing is, and the answer begins with its own text.
    """
    whole = rendered(tokenizer, prompt, [*asked, {"role": ASSISTANT, "content": target}], opens=False)
    if whole.startswith(opening):
        return opening, whole[len(opening) :]
    place = whole.rfind(target.strip())
    return "", whole[place:] if place >= 0 else target


def _ended(tokenizer: Tokenizer, read: str, answer: str, eos_ids: Sequence[int]) -> list[int]:
    """Return the tokens of an answer up to its first end token; with one where the template has none."""
    ids = ids_after(tokenizer, read, answer)
    end = next((number for number, token in enumerate(ids) if token in eos_ids), None)
    if end is None:
        return [*ids_after(tokenizer, read, answer.rstrip()), eos_ids[0]]
    return ids[: end + 1]


def ids_after(tokenizer: Tokenizer, read: str, text: str) -> list[int]:
    """Return the tokens of a text that follows what was read; where a piece reaches over the border, of it alone."""
    before, whole = token_ids(tokenizer, [read, read + text])
    return whole[len(before) :] if whole[: len(before)] == before else token_ids(tokenizer, [text])[0]


def decode_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Return the text of an output, without special tokens and outer spaces."""
    try:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
    except (TypeError, OverflowError):
        raise WheelsError(f"tokens must be token ids, got {shown(tokens)}") from None
