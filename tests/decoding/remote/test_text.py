"""A teacher of text, a chat or a model with other tokens: its words stand in the student's text, and are paid for."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.decoding.across.two import SOURCES, STUDENTS, TEACHERS, model, spelled
from tests.decoding.remote.fake_chat import ANEW, CONTINUES, ECHOES, FakeChat
from tests.decoding.remote.fake_vllm import NAME, FakeVllm, fake_vllm
from tests.decoding.tiny import write
from wheels.data.prompts import Prompt
from wheels.decoding.methods.method import deferral, student_only, teacher_only
from wheels.decoding.methods.rule import Rule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.prices import Prices
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.remote.text import Asked
from wheels.decoding.render import as_json, summary
from wheels.decoding.trace import TEACHER
from wheels.endpoints.scoring import ScoringTeacher
from wheels.errors import WheelsError

LONG = {"max_new_tokens": 16}
THIRD = Rule("third", score=lambda step: (step.position_B % 3 == 1).double()).at(0.5)
TASK = "la {source} du"
KINDS = [
    ("t5", FakeChat, CONTINUES),
    ("llama", FakeChat, CONTINUES),
    ("llama", FakeChat, ECHOES),
    ("llama", FakeVllm, None),
]


@pytest.fixture(scope="module")
def teacher() -> Any:
    tokenizer = spelled(TEACHERS, ends_source=False)
    return model("llama", 24, tokenizer, 100), tokenizer


Far = Callable[..., RemotePair]


@pytest.fixture
def far() -> Iterator[Far]:
    """Return a function that pairs a student of a family with the teacher behind a server."""
    teachers: list[RemoteTeacher] = []

    def make(
        family: str, server: FakeVllm, prompt: str | None = TASK, read: Any = "{source}", **settings: Any
    ) -> RemotePair:
        tokenizer = spelled(STUDENTS, ends_source=family == "t5")
        teachers.append(RemoteTeacher(server.url, NAME, prompt=prompt, on_error="stop", **settings))
        return RemotePair(model(family, 16, tokenizer, 0), teachers[-1], tokenizer, prompt=read)

    yield make
    for each in teachers:
        each.close()


def serving(teacher: Any, kind: type[FakeVllm] = FakeChat, how: str | None = CONTINUES, **settings: Any) -> Any:
    return fake_vllm(*teacher, kind=kind, **({"how": how} | settings if kind is FakeChat else settings))


def own_text(teacher: Any, source: str, span: int, calls: int) -> str:
    """Return what transformers' own `generate` writes after the text so far, again and again."""
    net, tokenizer = teacher
    written = ""
    for _ in range(calls):
        ids = tokenizer(TASK.format(source=source) + written.rstrip(), return_tensors="pt").input_ids
        new = net.generate(ids, max_new_tokens=span, do_sample=False, suppress_tokens=None)[0]
        before, whole = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[0], new))
        written = written.rstrip() + whole[len(before) :]
        written = written if written.strip() else ""
    return written


@pytest.mark.parametrize(("family", "kind", "how"), KINDS)
def test_the_teacher_alone_writes_what_its_own_generate_does(teacher, far, family, kind, how):
    with serving(teacher, kind, how) as server:
        pair = far(family, server, span="tokens:4")
        traces = write(pair, SOURCES, teacher_only(), budget=1.0, **LONG)
        for source, trace in zip(SOURCES, traces, strict=True):
            own = own_text(teacher, source, 4, trace.teacher_passes).strip()
            assert own.startswith(trace.text) and len(trace.text) > len(own) // 2
            assert set(trace.authors) == {TEACHER} and not trace.degraded
        assert pair.by_text and pair.probe.difference and pair.most_per_call is None


@pytest.mark.parametrize(("family", "kind", "how"), KINDS)
def test_texts_depend_on_no_batch_and_on_no_writing_on(teacher, far, family, kind, how):
    with serving(teacher, kind, how) as server:
        alone, *others = (
            write(far(family, server, span="tokens:3", write_on=on), SOURCES, THIRD, batch_size=size, **LONG)
            for size, on in ((1, False), (5, False), (5, True), (1, True))
        )
        for found in others:
            assert [trace.token_ids for trace in found] == [trace.token_ids for trace in alone]
            assert [trace.authors for trace in found] == [trace.authors for trace in alone]
        assert len({author for trace in alone for author in trace.authors}) == 2


def test_a_model_with_other_tokens_is_asked_for_several_texts_at_once(teacher, far):
    with serving(teacher, FakeVllm) as server:
        pair = far("llama", server)
        before = len(server.bodies)
        write(pair, SOURCES, teacher_only(), budget=1.0, max_new_tokens=1, batch_size=len(SOURCES))
        (body,) = server.bodies[before:]
        assert sorted(body["prompt"]) == sorted(TASK.format(source=source) for source in SOURCES)
        assert "another tokenizer" in pair.probe.difference


def test_what_is_counted(teacher, far):
    with serving(teacher) as server:
        pair = far("llama", server, span="tokens:3", prices=Prices(1.0, 2.0))
        traces = write(pair, SOURCES, THIRD, **LONG)
        start = pair.probe.usage
        assert sum(each.own_tokens[0] for each in traces) == pair.remote.ledger.usage.prompt - start.prompt
        assert sum(each.own_tokens[1] for each in traces) == pair.remote.ledger.usage.completion - start.completion
        assert "of its own" in summary(traces) and '"teacher_own_tokens"' in as_json(traces)


@pytest.mark.parametrize("dollars", [1e-3, 3e-3])
def test_a_ceiling_of_dollars_is_never_passed(teacher, far, dollars):
    with serving(teacher) as server:
        pair = far("llama", server, prices=Prices(1.0, 2.0), budget_dollars=dollars, span="tokens:3")
        pair.remote.on_error = "continue"
        write(pair, SOURCES * 8, teacher_only(), budget=1.0, **LONG)
        assert 0.5 * dollars < pair.remote.ledger.spent / 1e12 <= dollars


def test_a_chat_that_begins_anew_is_told_the_beginning(teacher, far):
    with serving(teacher, how=ANEW) as server:
        with pytest.raises(WheelsError, match=r"begins a new answer where it was to continue one.*\{written\}"):
            far("llama", server)
        pair = far("llama", server, "{source} ba {written}", span="tokens:2")
        write(pair, SOURCES[:1], teacher_only(), budget=1.0, **LONG)
        last = server.bodies[-1]["messages"]
        assert [message["role"] for message in last] == ["user"] and "continue_final_message" not in server.bodies[-1]
        assert last[0]["content"].startswith(f"{SOURCES[0]} ba ") and len(last[0]["content"]) > len(SOURCES[0]) + 5


def test_a_chat_that_takes_no_beginning(teacher, far):
    with serving(teacher, how=None) as server, pytest.raises(WheelsError, match="begins a new answer"):
        far("llama", server)


def test_a_server_is_asked_without_what_it_refuses(teacher, far):
    refuses = ("add_generation_prompt", "continue_final_message", "max_tokens", "temperature")
    with serving(teacher, refuses=refuses) as server:
        traces = write(far("llama", server), SOURCES[:2], teacher_only(), budget=1.0, max_new_tokens=3)
        assert not set(refuses) & set(server.bodies[-1]) and server.bodies[-1]["max_completion_tokens"] == 1
        assert all(trace.tokens for trace in traces)


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"message": {"content": None, "refusal": "no"}}, "answers without a text"),
        ({"message": {"content": ""}, "finish_reason": "length"}, "answers with no text"),
        ({"message": {"content": "ba"}, "finish_reason": "content_filter"}, "ends a text with 'content_filter'"),
    ],
)
def test_an_answer_without_words_leaves_the_text_to_the_student(teacher, far, told, match):
    with serving(teacher) as server:
        pair = far("llama", server)
        pair.remote.on_error = "continue"
        server.change = lambda answer: answer | {"choices": [answer["choices"][0] | told]}
        (trace,) = write(pair, SOURCES[:1], THIRD, **LONG)
        (alone,) = write(pair, SOURCES[:1], student_only(), budget=0.0, **LONG)
        assert trace.token_ids == alone.token_ids and trace.degraded and not trace.teacher_tokens
        assert any(match in reason for reason in pair.remote.failures)


def test_an_empty_answer_that_ends_is_the_end(teacher, far):
    with serving(teacher) as server:
        pair = far("llama", server)
        ended = {"message": {"content": ""}, "finish_reason": "stop"}
        server.change = lambda answer: answer | {"choices": [answer["choices"][0] | ended]}
        (trace,) = write(pair, SOURCES[:1], THIRD, **LONG)
        assert trace.finished and trace.token_ids[-1] == pair.eos_ids[0] and trace.authors[-1] == TEACHER


def test_a_word_that_is_completed_is_spelled_anew(teacher, far):
    with serving(teacher) as server:
        pair, said = far("llama", server, write_on=False), iter(["ba d", "ula", " du"])

        def next_words(answer: dict[str, Any]) -> dict[str, Any]:
            told = {"message": {"content": next(said)}, "finish_reason": "length"}
            return answer | {"choices": [answer["choices"][0] | told]}

        server.change = next_words
        (trace,) = write(pair, ["ba"], teacher_only(), budget=1.0, max_new_tokens=6)
        pieces = ["b", "a", "▁", "du", "la", "▁"]
        assert list(trace.token_ids) == pair.tokenizer.convert_tokens_to_ids(pieces) and trace.teacher_passes == 3


def test_a_sentence_ends_a_call(teacher, far):
    with serving(teacher) as server:
        pair = far("llama", server, span="line", write_on=False)
        said = {"message": {"content": "ba du\nla la"}, "finish_reason": "stop"}
        server.change = lambda answer: answer | {"choices": [answer["choices"][0] | said]}
        (trace,) = write(
            pair,
            SOURCES[:1],
            Rule("first", score=lambda step: (step.position_B == 0).double()).at(0.5),
            max_new_tokens=4,
        )
        assert trace.text.startswith("ba du") and not trace.text.startswith("ba du la la")


@pytest.mark.parametrize(
    ("chat", "echoes", "text", "written", "answer", "added"),
    [
        (True, False, None, "", " The sea", "The sea"),
        (True, False, None, "The sea", " is", " is"),
        (True, False, None, "The sea ", " is", "is"),
        (True, False, None, "The sea ", "is", "is"),
        (True, True, None, "The sea ", "The sea is", " is"[1:]),
        (True, True, None, "ha", "haha", "ha"),
        (True, False, None, "ha", "ha", "ha"),
        (False, False, None, "The sea ", " is", " is"),
        (True, False, "{source}{written}", "The sea", "is", " is"),
        (True, False, "{source}{written}", "The sea", "The sea is", " is"),
        (True, False, "{source}{written}", "The sea", ", which", ", which"),
        (True, False, "{source}{written}", "The (", "wide", "wide"),
        (True, False, "{source}{written}", "das ", "ist", "ist"),
        (True, False, "{source}{written}", "海", "是", "是"),
    ],
)
def test_what_an_answer_adds(chat, echoes, text, written, answer, added):
    asked = Asked("http://h", "why", Prompt("{source} .", chat), text, chat, True, echoes, is_seq2seq=False)
    assert asked.added(written, answer) == added


def test_a_chat_reads_the_conversation_of_its_student():
    asked = Asked(
        "http://h", "why", Prompt(chat=True, system="Be brief."), "Say {source}", True, True, False, is_seq2seq=False
    )
    user, system = {"role": "user", "content": "Say x"}, {"role": "system", "content": "Be brief."}
    assert asked.body("x", "") == {"messages": [system, user]}
    begun = asked.body("x", "It is ")
    assert begun["messages"] == [system, user, {"role": "assistant", "content": "It is"}]
    assert begun["continue_final_message"] is True and begun["add_generation_prompt"] is False


def test_what_cannot_be_asked_in_words_is_refused_by_name(teacher, far):
    with serving(teacher, FakeVllm) as server:
        with pytest.raises(WheelsError, match=r"another tokenizer.*says no task: say it by --teacher-prompt"):
            far("t5", server, None)
        pair = far("llama", server)
        pair.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        with pytest.raises(
            WheelsError, match="reads plain text, and the prompt is a chat; give the address of its chat"
        ):
            pair.read_by(Prompt(chat=True))
        with pytest.raises(
            WheelsError, match=r"another tokenizer.*a teacher that scores texts needs the student's tokens"
        ):
            ScoringTeacher(pair.remote.client, NAME, pair.probe, vocab_size=9, is_seq2seq=False)
        with pytest.raises(WheelsError, match="a call buys as many tokens as its text takes"):
            write(pair, SOURCES, deferral(RULES["random"].at(0.5), 0.5, "strict"), budget=0.5)
    with pytest.raises(WheelsError, match=r"teacher_prompt must contain \{source\} and \{written\}"):
        RemoteTeacher("http://h", NAME, prompt="{written}")
