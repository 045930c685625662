"""One tokenizer or two, and which of the two reads where their special tokens differ."""

from __future__ import annotations

import json
import logging

import pytest
from transformers import PreTrainedTokenizerFast

from tests.models.chat_tokenizers import chat_tokenizer
from wheels.data.prompts import Prompt
from wheels.errors import WheelsError
from wheels.models.build import ModelSize, build_model
from wheels.models.loading import Tokenizer, save_model
from wheels.models.pair import Pair
from wheels.models.tokenizers import check_same_tokenizer, shared_tokenizer

TINY = ModelSize(width=16, layers=1, heads=2, ff=32)


def rebuilt(tokenizer: Tokenizer, **changes: str) -> Tokenizer:
    """Return a tokenizer of the same pieces with other special tokens."""
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{"eos_token": "<|end|>", "pad_token": "<pad>"} | changes)


def test_pieces_of_other_numbers_are_another_tokenizer():
    tokenizer = chat_tokenizer(None)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    other = PreTrainedTokenizerFast(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(state)))
    with pytest.raises(WheelsError, match=r"student 'q' and teacher 'p' have different tokenizers: .* 4 differ, first"):
        check_same_tokenizer(tokenizer, other, "q", "p")


def test_one_vocabulary_cut_differently_is_another_tokenizer():
    tokenizer = chat_tokenizer(None)
    other = rebuilt(tokenizer)
    other.backend_tokenizer.pre_tokenizer = None
    with pytest.raises(WheelsError, match=r"different tokenizers: one vocabulary, but 'Zwei M.*becomes \d+ and \d+"):
        check_same_tokenizer(tokenizer, other, "q", "p")


def test_one_tokenizer_is_the_students_and_nothing_is_said(caplog):
    student, teacher = chat_tokenizer("opens"), chat_tokenizer("opens")
    assert shared_tokenizer(student, teacher, "q", "p") is student
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("student", "teacher", "by", "said"),
    [
        (("opens", "</s>"), ("opens", "<|end|>"), "teacher", "end token </s> and <|end|>"),
        ((None, "<|end|>"), ("opens", "<|end|>"), "teacher", "no and a chat template"),
        (("opens", "<|end|>"), (None, "<|end|>"), "student", "a and no chat template"),
        (("opens", "<|end|>"), ("thinks", "<|end|>"), "teacher", "two chat templates"),
        ((None, "</s>"), ("begins", "</s>"), "teacher", "nothing and <s> put around a text; no and a chat template"),
    ],
)
def test_other_special_tokens_are_aligned_and_said_in_one_line(student, teacher, by, said, caplog):
    tokenizers = {
        role: chat_tokenizer(form, eos=eos)
        for role, (form, eos) in zip(("student", "teacher"), (student, teacher), strict=True)
    }
    with caplog.at_level(logging.INFO, logger="wheels"):
        assert shared_tokenizer(*tokenizers.values(), "q", "p") is tokenizers[by]
    assert [record.getMessage() for record in caplog.records] == [
        f"student 'q' and teacher 'p' have one vocabulary and other special tokens: {said}; both read by the {by}'s "
        "tokenizer, and a text ends at the end token of either"
    ]


def test_added_tokens_of_one_alone_are_aligned(caplog):
    student, teacher = chat_tokenizer("opens"), chat_tokenizer("opens")
    teacher.add_tokens(["<tool>", "<call>"])
    with caplog.at_level(logging.INFO, logger="wheels"):
        assert shared_tokenizer(student, teacher, "q", "p") is teacher
    assert "added by the teacher: <call> and 1 more" in caplog.text


@pytest.fixture
def base_and_instruct(tmp_path) -> tuple[str, str]:
    """Folders of a base model that ends with one token, and an instruct one that ends with another."""
    folders = []
    for number, (form, eos) in enumerate(((None, "</s>"), ("opens", "<|end|>"))):
        tokenizer = chat_tokenizer(form, eos=eos)
        model = build_model(
            TINY, family="llama", vocab_size=len(tokenizer), seed=number, eos_id=tokenizer.convert_tokens_to_ids(eos)
        )
        folders.append(str(save_model(model, tokenizer, tmp_path / eos.strip("</|>"))))
    return folders[0], folders[1]


def test_a_base_student_and_an_instruct_teacher_are_a_pair(base_and_instruct):
    pair = Pair.load(*base_and_instruct, prompt=Prompt(chat=True))
    ends = [pair.tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<|end|>")]
    assert pair.eos_ids == tuple(ends)
    told = [{"role": "user", "content": "two"}]
    assert pair.encode(["two"]) == [
        pair.tokenizer.apply_chat_template(told, add_generation_prompt=True, tokenize=True, return_dict=False)
    ]
    assert pair.encode_targets(["three"])[0][-1] == ends[1]


def test_a_prompt_that_the_template_does_not_read_is_refused_at_once(base_and_instruct):
    pair = Pair.load(*base_and_instruct)
    with pytest.raises(WheelsError, match="the chat template reads no 'enable_thinking'"):
        pair.read_by(Prompt(chat=True, arguments={"enable_thinking": False}))
    assert not pair.prompt.chat
    pair.read_by("chat")
    assert pair.prompt.chat
    with pytest.raises(WheelsError, match="the chat template reads no 'k'"):
        Pair.load(*base_and_instruct, prompt=Prompt(chat=True, arguments={"k": 1}))


def test_a_token_that_the_student_has_no_logits_for_is_refused(base_and_instruct):
    student, teacher = base_and_instruct
    pair = Pair.load(student, teacher)
    pair.teacher.resize_token_embeddings(len(pair.tokenizer) + 1)
    pair.tokenizer.add_tokens(["<tool>"])
    save_model(pair.teacher, pair.tokenizer, teacher)
    with pytest.raises(WheelsError, match=r"the tokenizer has ids up to \d+, but student .* has only \d+ logits"):
        Pair.load(student, teacher)
