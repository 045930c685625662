"""Prompts to tokens: texts by the pair's own template, ids as they are, chats by the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence

from wheels.data.conversations import Conversation
from wheels.data.prompts import Prompt
from wheels.decoding.serve.bodies import Body, ChatBody, CompletionBody, Message
from wheels.decoding.serve.errors import Refused
from wheels.errors import WheelsError
from wheels.models.encoding import encode_sources, own_template
from wheels.models.pair import Pair


def prompts_of(pair: Pair, body: Body) -> list[list[int]]:
    """Return the tokens of each prompt of a request.

    Raises:
        Refused: for an empty prompt, ids that are no tokens, or a chat that the model cannot read.
    """
    if isinstance(body, ChatBody):
        return [chat_prompt(pair, body.messages)]
    assert isinstance(body, CompletionBody)
    given = body.prompt
    if not given:
        raise Refused(400, "prompt is empty; give it some text", param="prompt")
    if isinstance(given, str):
        return [text_prompt(pair, given)]
    if isinstance(given[0], int):
        return [checked_ids(pair, given)]
    return [text_prompt(pair, each) if isinstance(each, str) else checked_ids(pair, each) for each in given]


def text_prompt(pair: Pair, text: str, param: str = "prompt") -> list[int]:
    """Return the tokens of a text, as `wheels generate` reads it."""
    try:
        (tokens,) = pair.encode([text]) if text.strip() else [[]]
    except WheelsError as error:
        raise Refused(400, str(error), param=param) from None
    if not tokens:
        raise Refused(400, f"{param} is empty; give it some text", param=param)
    return tokens


def checked_ids(pair: Pair, ids: Sequence[object]) -> list[int]:
    """Return token ids, all of which the models know."""
    known = [token for token in ids if isinstance(token, int)]
    if not known:
        raise Refused(400, "prompt is empty; give it some token ids", param="prompt")
    if max(known) >= pair.vocab_size:
        raise Refused(
            400, f"prompt has token id {max(known)}; the models have ids below {pair.vocab_size}", param="prompt"
        )
    return known


def chat_prompt(pair: Pair, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of a chat, by the tokenizer's own template; without one, of a user's one message."""
    plain = [{"role": message.role, "content": message.text} for message in messages]
    if not any(message["content"].strip() for message in plain):
        raise Refused(400, "messages are empty; give them some text", param="messages")
    if pair.is_seq2seq or not own_template(pair.tokenizer):
        roles = [message["role"] for message in plain]
        if roles != ["user"]:
            given = f"got {len(roles)} of {', '.join(dict.fromkeys(roles))}"
            told = f"the model has no chat template and reads one message of a user, {given}; use /v1/completions"
            raise Refused(400, told, param="messages")
        return text_prompt(pair, plain[0]["content"], "messages")
    prompt = pair.prompt if pair.prompt.chat else Prompt(chat=True)
    try:
        (tokens,) = encode_sources(pair.tokenizer, [Conversation(plain)], is_seq2seq=False, prompt=prompt)
    except Exception as error:  # a template is a program, and raises what it likes
        raise Refused(400, f"the model cannot read these messages: {str(error)[:500]}", param="messages") from None
    return tokens
