"""Where a row becomes tokens: chat templates token for token as the tokenizer's own, plain prompts, targets."""

from __future__ import annotations

import pytest

from tests.models.chat_tokenizers import ADDS_BEGIN, FORMS, chat_tokenizer
from wheels.data.conversations import Conversation
from wheels.data.prompts import Prompt
from wheels.errors import WheelsError
from wheels.models.encoding import decode_text, encode_sources, encode_targets
from wheels.models.loading import Tokenizer

CHAT = Prompt(chat=True)
ASKS = [{"role": "user", "content": "What is two and three?"}]
TURNS = [*ASKS, {"role": "assistant", "content": "Five."}, {"role": "user", "content": " And {three} and three? "}]
TOLD = [{"role": "system", "content": "You count."}, *TURNS]
CONVERSATIONS = {"one": ASKS, "turns": TURNS, "told": TOLD}
ANSWER = "It is six!"


def theirs(tokenizer: Tokenizer, messages: list[dict[str, str]], **options) -> list[int]:
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


@pytest.fixture(scope="module", params=FORMS)
def form(request) -> tuple[str, Tokenizer]:
    return request.param, chat_tokenizer(request.param)


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_is_read_as_the_tokenizer_writes_it(form, messages):
    _, tokenizer = form
    [ids] = encode_sources(tokenizer, [Conversation(messages)], is_seq2seq=False, prompt=CHAT)
    assert ids == theirs(tokenizer, messages, add_generation_prompt=True)
    assert ids[:2].count(tokenizer.bos_token_id) == (form[0] in ("begins", "system"))


def test_a_text_is_what_a_user_says(form):
    _, tokenizer = form
    prompt = Prompt("Count! {source}", chat=True, system="You count.")
    [ids] = encode_sources(tokenizer, ["two and {three}"], is_seq2seq=False, prompt=prompt)
    told = [{"role": "system", "content": "You count."}, {"role": "user", "content": "Count! two and {three}"}]
    assert ids == theirs(tokenizer, told, add_generation_prompt=True)
    several = encode_sources(tokenizer, ["one", "two and {three}"], is_seq2seq=False, prompt=prompt)
    assert len(several) == 2 and several[1] == ids


def test_an_own_system_message_stays(form):
    _, tokenizer = form
    prompt = Prompt(chat=True, system="Another.")
    [ids] = encode_sources(tokenizer, [Conversation(TOLD)], is_seq2seq=False, prompt=prompt)
    assert ids == theirs(tokenizer, TOLD, add_generation_prompt=True)


@pytest.mark.parametrize("answer", [ANSWER, "<think>\nhm\n</think>\n\nsix"])
def test_source_and_target_are_the_whole_conversation_up_to_its_end_token(form, answer):
    name, tokenizer = form
    [source] = encode_sources(tokenizer, [Conversation(TURNS)], is_seq2seq=False, prompt=CHAT)
    [target] = encode_targets(tokenizer, [answer], (tokenizer.eos_token_id,), prompt=CHAT)
    whole = theirs(tokenizer, [*TURNS, {"role": "assistant", "content": answer}])
    assert target[-1] == tokenizer.eos_token_id and target.count(target[-1]) == 1
    if name == "no begin":  # its template ends an answer with a line break alone
        assert decode_text(tokenizer, target) == answer
        target = target[:-1]
    assert whole[: len(source) + len(target)] == [*source, *target]


def test_thoughts_that_an_argument_leaves_out():
    tokenizer = chat_tokenizer("thinks")
    prompt = Prompt(chat=True, arguments={"enable_thinking": False})
    [ids] = encode_sources(tokenizer, [Conversation(TURNS)], is_seq2seq=False, prompt=prompt)
    assert ids == theirs(tokenizer, TURNS, add_generation_prompt=True, enable_thinking=False)
    assert tokenizer.decode(ids).endswith("<think>\n\n</think>\n\n")
    [target] = encode_targets(tokenizer, [ANSWER], (tokenizer.eos_token_id,), prompt=prompt)
    assert tokenizer.decode(target) == f"{ANSWER}<|end|>"
    assert [*ids, *target] == theirs(tokenizer, [*TURNS, {"role": "assistant", "content": ANSWER}])[: len(ids + target)]


def test_an_answer_that_the_template_begins_otherwise():
    tokenizer = chat_tokenizer("thinks")
    tokenizer.chat_template = (
        "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n<think>\n{% endif %}"
    )
    [target] = encode_targets(tokenizer, [f" {ANSWER} "], (tokenizer.eos_token_id,), prompt=CHAT)
    assert tokenizer.decode(target) == f"{ANSWER}<|end|>"


def test_the_token_that_ends_an_answer_is_the_templates():
    tokenizer = chat_tokenizer("opens", eos="</s>")
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    for ends in ((tokenizer.eos_token_id, end), (end,)):
        assert encode_targets(tokenizer, [ANSWER], ends, prompt=CHAT)[0][-1] == end
    [target] = encode_targets(tokenizer, [ANSWER], (tokenizer.eos_token_id,), prompt=CHAT)
    assert tokenizer.decode(target) == f"{ANSWER}<|end|></s>"


@pytest.mark.parametrize("form", ADDS_BEGIN)
def test_a_begin_token_that_stands_in_the_prompt_is_not_read_twice(form):
    tokenizer = chat_tokenizer(form)
    begin = tokenizer.bos_token_id
    for text in ("{source}", "<s>{source}"):
        [ids] = encode_sources(tokenizer, ["two"], is_seq2seq=False, prompt=Prompt(text))
        assert ids == [begin, *tokenizer("two", add_special_tokens=False)["input_ids"]]
    assert encode_sources(tokenizer, ["<s>two"], is_seq2seq=True)[0][:2] == [begin, begin], "an encoder's own affair"


def test_a_conversation_of_one_text_is_that_text_without_a_template():
    tokenizer = chat_tokenizer(None)
    prompt = Prompt("Q: {source} A:")
    read = encode_sources(tokenizer, [Conversation(ASKS)], is_seq2seq=False, prompt=prompt)
    assert read == encode_sources(tokenizer, [ASKS[0]["content"]], is_seq2seq=False, prompt=prompt)
    with pytest.raises(WheelsError, match=r"a conversation of 3 messages \('user: What is two.*--chat-template on"):
        encode_sources(tokenizer, [Conversation(TURNS)], is_seq2seq=False, prompt=prompt)


@pytest.mark.parametrize(
    ("form", "prompt", "is_seq2seq", "message"),
    [
        (None, CHAT, False, "has no chat template; give models that have one, or --chat-template off"),
        ("opens", CHAT, True, "chat templates are for causal models"),
        ("opens", Prompt(chat=True, arguments={"enable_thinking": False}), False, "reads no 'enable_thinking'"),
        ("no system", Prompt(chat=True, system="Count."), False, "leaves the system's message out"),
    ],
)
def test_a_template_that_cannot_do_what_is_asked_is_refused(form, prompt, is_seq2seq, message):
    tokenizer = chat_tokenizer(None if form == "no system" else form)
    if form == "no system":
        tokenizer.chat_template = (
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
        )
    with pytest.raises(WheelsError, match=message):
        encode_sources(tokenizer, ["two"], is_seq2seq=is_seq2seq, prompt=prompt)


def test_what_a_template_says_is_passed_on():
    messages = [*ASKS, {"role": "system", "content": "late"}, *ASKS]
    with pytest.raises(WheelsError, match="of user, system, user: one system message, at the start"):
        encode_sources(chat_tokenizer("system"), [Conversation(messages)], is_seq2seq=False, prompt=CHAT)
